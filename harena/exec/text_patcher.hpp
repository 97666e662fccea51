// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "harena/base/result.hpp"
#include "harena/base/zeroed_array.hpp"
#include "harena/exec/text_file.hpp"

namespace harena {

/// Changes text of one space while threads run it: docs/exec.md, "Live patching". Thread-safe.
class TextPatcher {
public:
    /// For the text [base, base + bytes) of `file`, both of which outlive it.
    TextPatcher(TextFile& file, std::byte* base, std::uint64_t bytes) noexcept
        : file_{file}, base_{base}, bytes_{bytes} {}
    TextPatcher(const TextPatcher&) = delete;
    TextPatcher& operator=(const TextPatcher&) = delete;
    ~TextPatcher() = default;

    /// What `patch` needs: the process's handler of SIGTRAP, membarrier(2), room for the places. Errors: ENOTSUP (names
    /// what is missing), ENOMEM, those of sigaction.
    Result<void> prepare();
    /// Replaces the instruction at `offset`, by way of a trap. Only what is in one piece that nobody frees meanwhile;
    /// one at a time. Errors, after which the text is as it was if that could be written: those of `TextFile::write`
    /// and of membarrier.
    Result<void> patch(std::uint64_t offset, std::span<const std::byte> bytes);
    /// [offset, offset + bytes) is nobody's text any more: a trap there is none of a patch.
    void forget(std::uint64_t offset, std::uint64_t bytes) noexcept;

    /// Whether a trap at `address` in this space's text is that of a patch: the thread goes on there. Lock-free,
    /// async-signal-safe.
    [[nodiscard]] bool answers_for(std::uintptr_t address) const noexcept;

    /// Until all threads have executed a serialising instruction. Errors: ENOTSUP, EPERM.
    static Result<void> sync_all_threads();

private:
    using Word = std::uint64_t;
    [[nodiscard]] bool was_patched(std::uint64_t offset) const noexcept;

    TextFile& file_;
    std::byte* base_;
    std::uint64_t bytes_;
    std::mutex prepare_mutex_;  // protects the making of `places_memory_`
    std::optional<ZeroedArray<Word>> places_memory_;
    // Bit i: byte i of the text was patched since its piece was allocated. Null until the first patch.
    std::atomic<Word*> places_{nullptr};
    // Odd while a patch is in progress, at `active_`.
    std::atomic<std::uint64_t> sequence_{0};
    std::atomic<std::uint64_t> active_{0};
};

}  // namespace harena
