// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

/// What the processes of the torture test know of each other, in memory of its own that all of them map: it survives
/// whoever is killed.
namespace harena::torture {

inline constexpr std::size_t k_workers = 4;
inline constexpr std::size_t k_threads_each = 2;
inline constexpr std::size_t k_threads = k_workers * k_threads_each;
inline constexpr std::size_t k_parent = k_threads;  // as an owner: the test itself
inline constexpr std::uint64_t k_pages = 1536;
/// Only these are touched without a claim.
inline constexpr std::uint64_t k_wild_pages = 192;

enum class Holding : std::uint8_t {
    nothing,
    touching,         ///< claimed before a touch; whoever has allocated the page meanwhile takes the claim over
    fresh,            ///< allocated, not filled yet
    filled,           ///< allocated, with the pattern
    reserved,         ///< reserved, never written to
    reserved_filled,  ///< reserved, with the pattern
    freeing,          ///< about to be freed: whoever gets the page next takes the entry over
};

/// Who has a page, as he says himself.
struct Entry {
    Holding holding = Holding::nothing;
    std::uint8_t thread = 0;
    std::uint16_t life = 0;  ///< how often that worker was started

    [[nodiscard]] constexpr bool owned() const noexcept {
        return holding != Holding::nothing && holding != Holding::touching && holding != Holding::freeing;
    }
    [[nodiscard]] constexpr bool has_pattern() const noexcept {
        return holding == Holding::filled || holding == Holding::reserved_filled;
    }
    [[nodiscard]] constexpr bool is_reserved() const noexcept {
        return holding == Holding::reserved || holding == Holding::reserved_filled;
    }
    [[nodiscard]] constexpr Entry as(Holding now) const noexcept { return {now, thread, life}; }
    friend constexpr bool operator==(Entry, Entry) noexcept = default;
};
static_assert(std::atomic<Entry>::is_always_lock_free);

/// One thread of a worker.
struct ThreadLog {
    /// Odd while a call is being made and its result is not on the board yet.
    std::atomic<std::uint64_t> step;
    /// Pages that this call may get without the board saying so.
    std::atomic<std::uint64_t> in_doubt;
    std::atomic<std::uint64_t> calls;
    std::atomic<std::uint64_t> longest_ns;
    std::atomic<std::uint64_t> longest_call;  ///< which operation that was
};

/// Zero at first.
struct SharedLog {
    std::atomic<std::uint32_t> paused;  ///< a futex
    std::atomic<std::uint32_t> failed;
    std::array<char, 512> failure;
    std::array<ThreadLog, k_threads> threads;
    /// Intent and result: an entry changes before a page is given up and before it is touched, and right after it was
    /// got.
    std::array<std::atomic<Entry>, k_pages> board;
    std::array<std::atomic<std::uint64_t>, k_pages> pattern;  ///< the first word of the page, if it has the pattern
    std::array<std::atomic<std::uint32_t>, k_pages> may_be_stray;  ///< touches that may have made it used for nobody
};

/// The same numbers for the same seed.
class Random {
public:
    explicit Random(std::uint64_t seed) noexcept : state_{seed} {}
    std::uint64_t next() noexcept {
        std::uint64_t z = state_ += 0x9e37'79b9'7f4a'7c15;
        z = (z ^ z >> 30) * 0xbf58'476d'1ce4'e5b9;
        z = (z ^ z >> 27) * 0x94d0'49bb'1331'11eb;
        return z ^ z >> 31;
    }
    std::uint64_t below(std::uint64_t bound) noexcept { return next() % bound; }
    bool one_in(std::uint64_t n) noexcept { return below(n) == 0; }

private:
    std::uint64_t state_;
};

constexpr std::uint64_t pattern_word(std::uint64_t first, std::size_t i) noexcept {
    return first + i * 0x0101'0101'0101'0101;
}

}  // namespace harena::torture
