// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace harena {

/// A fixed number of bits with searches that skip whole words. Not thread-safe.
class Bitmap {
public:
    Bitmap() = default;
    explicit Bitmap(std::size_t bits);

    [[nodiscard]] std::size_t size() const noexcept { return bits_; }
    [[nodiscard]] bool test(std::size_t bit) const noexcept { return (words_[bit / 64] >> (bit % 64)) & 1; }
    void set(std::size_t bit) noexcept { words_[bit / 64] |= mask(bit); }
    void clear(std::size_t bit) noexcept { words_[bit / 64] &= ~mask(bit); }

    /// Sets or clears bits [begin, end); `begin <= end <= size()`.
    void set_range(std::size_t begin, std::size_t end) noexcept;
    void clear_range(std::size_t begin, std::size_t end) noexcept;

    /// The first set (clear) bit at or after `from`, or `size()` if there is none.
    [[nodiscard]] std::size_t find_next_set(std::size_t from) const noexcept;
    [[nodiscard]] std::size_t find_next_clear(std::size_t from) const noexcept;

    /// How many bits are set.
    [[nodiscard]] std::size_t count() const noexcept;

private:
    [[nodiscard]] static constexpr std::uint64_t mask(std::size_t bit) noexcept {
        return std::uint64_t{1} << (bit % 64);
    }
    template <bool Set>
    void assign_range(std::size_t begin, std::size_t end) noexcept;
    template <bool Set>
    [[nodiscard]] std::size_t find_next(std::size_t from) const noexcept;

    std::vector<std::uint64_t> words_;
    std::size_t bits_ = 0;
};

/// A set of numbers below a fixed size, filled from anywhere, a signal handler included, and emptied by one reader.
///
/// Two levels: a leaf bit says that a number is in the set; a summary bit says that a leaf word may have bits.
/// `insert` is wait-free and async-signal-safe; `drain` is for one thread at a time and may run beside `insert`.
class AtomicIntake {
public:
    /// Numbers below `size` can be inserted. Allocates `size / 8` bytes.
    explicit AtomicIntake(std::size_t size);

    /// Adds `number` (below the size). What was inserted before `drain` began is seen by it.
    void insert(std::size_t number) noexcept {
        // The leaf before the summary: a reader that clears the summary bit first either finds the leaf bit or is
        // followed by a summary bit that the next drain sees.
        leaves_[number / 64].fetch_or(std::uint64_t{1} << (number % 64), std::memory_order_release);
        summary_[number / (64 * 64)].fetch_or(std::uint64_t{1} << (number / 64 % 64), std::memory_order_release);
        // An exchange, because a plain store would hide the inserts of other threads that the reader must also see: it
        // would end their release sequence.
        pending_.exchange(true, std::memory_order_release);
    }

    /// Takes every number out and calls `visit(number)` for each, in ascending order.
    template <typename Visit>
    void drain(Visit&& visit) {
        if (!pending_.load(std::memory_order_relaxed) || !pending_.exchange(false, std::memory_order_acquire)) return;
        for (std::size_t s = 0; s < summary_words_; ++s) {
            if (summary_[s].load(std::memory_order_relaxed) == 0) continue;
            for (auto words = summary_[s].exchange(0, std::memory_order_acquire); words != 0; words &= words - 1) {
                const std::size_t leaf = s * 64 + static_cast<std::size_t>(std::countr_zero(words));
                for (auto bits = leaves_[leaf].exchange(0, std::memory_order_acquire); bits != 0; bits &= bits - 1)
                    visit(leaf * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
            }
        }
    }

private:
    std::size_t summary_words_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> leaves_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> summary_;
    std::atomic<bool> pending_{false};
};

}  // namespace harena
