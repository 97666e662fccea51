// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

namespace harena {

/// A record that one writer at a time changes while others copy it: a sequence lock over atomic words. A reader waits
/// for nobody, and never sees half of two records. All zero bytes are a record of zeros, so that it can lie in shared
/// memory; there, the writer may end in the middle: readers then have none.
template <typename Record>
    requires std::is_trivially_copyable_v<Record> && (sizeof(Record) % 8 == 0)
class SeqLocked {
public:
    void store(const Record& record) noexcept {
        std::array<std::uint64_t, k_words> words;
        std::memcpy(words.data(), &record, sizeof record);
        const std::uint64_t version = version_.load(std::memory_order_relaxed) | 1;
        // Every store of a word is a release and every load an acquire: a reader that sees any new word also sees the
        // odd version, and drops what it read.
        version_.store(version, std::memory_order_relaxed);
        for (std::size_t i = 0; i < k_words; ++i) words_[i].store(words[i], std::memory_order_release);
        version_.store(version + 1, std::memory_order_release);
    }

    /// None if it is being changed.
    [[nodiscard]] std::optional<Record> try_load() const noexcept {
        const std::uint64_t before = version_.load(std::memory_order_acquire);
        if (before % 2 != 0) return std::nullopt;
        std::array<std::uint64_t, k_words> words;
        for (std::size_t i = 0; i < k_words; ++i) words[i] = words_[i].load(std::memory_order_acquire);
        if (version_.load(std::memory_order_relaxed) != before) return std::nullopt;
        Record record;
        std::memcpy(static_cast<void*>(&record), words.data(), sizeof record);
        return record;
    }

    /// Odd while it is being changed, and another one after each change.
    [[nodiscard]] std::uint64_t version() const noexcept { return version_.load(std::memory_order_acquire); }

private:
    static constexpr std::size_t k_words = sizeof(Record) / 8;

    std::atomic<std::uint64_t> version_{0};  // odd: being written
    std::array<std::atomic<std::uint64_t>, k_words> words_{};
};

}  // namespace harena
