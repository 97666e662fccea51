// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace harena {

/// The unit of allocation of text, and its least alignment.
inline constexpr std::uint64_t k_text_granule = 16;
[[nodiscard]] constexpr std::uint64_t text_granules(std::uint64_t bytes) noexcept {
    return (bytes + k_text_granule - 1) / k_text_granule;
}

/// What happened to a piece since it was allocated.
struct TextPieceFlags {
    bool written = false;
    /// Taken away from everybody; it is freed when no thread is inside any more.
    bool retired = false;
    /// A live patch is in progress.
    bool patching = false;
    /// There may be places in it that were patched live.
    bool patched = false;

    friend bool operator==(TextPieceFlags, TextPieceFlags) = default;
};

/// What is known of the pieces of 128 KiB of text, which are up to 4,080 bytes long and packed at 16 bytes in any mix
/// of sizes. All numbers are granules, counted from the chunk's begin. Not thread-safe.
class TextChunk {
public:
    static constexpr std::uint32_t k_granules = 8192;
    static constexpr std::uint64_t k_max_piece_bytes = 4080;

    struct Hole {
        std::uint32_t begin;
        std::uint32_t end;
    };
    struct Piece {
        std::uint32_t begin;
        std::uint32_t bytes;
        TextPieceFlags flags;
    };

    /// The first hole of `granules` or more; none if there is none, and then `largest` is exact.
    [[nodiscard]] std::optional<Hole> find_hole(std::uint32_t granules) noexcept;
    /// No hole has more than this.
    [[nodiscard]] std::uint32_t largest() const noexcept { return largest_; }
    [[nodiscard]] std::uint32_t free() const noexcept { return free_; }

    /// A new piece where there is a hole.
    void add(std::uint32_t begin, std::uint32_t bytes) noexcept;
    /// Makes a hole of the piece that begins at `begin`.
    void remove(std::uint32_t begin) noexcept;
    /// The piece that begins at `begin`, and the one that `granule` is in.
    [[nodiscard]] std::optional<Piece> at(std::uint32_t begin) const noexcept;
    /// The bytes of the piece that begins at `begin` if nothing happened to it yet, which means no flags; else 0.
    [[nodiscard]] std::uint32_t untouched_at(std::uint32_t begin) const noexcept {
        const std::uint32_t word = pieces_[begin];
        return word <= k_size_mask ? word : 0;
    }
    [[nodiscard]] std::optional<Piece> containing(std::uint32_t granule) const noexcept;
    void set_flags(std::uint32_t begin, TextPieceFlags flags) noexcept;
    /// Whether [begin, end) is free.
    [[nodiscard]] bool is_free(std::uint32_t begin, std::uint32_t end) const noexcept {
        return next(begin, true) >= end;
    }

private:
    static constexpr std::uint32_t k_words = k_granules / 64;
    static constexpr std::uint32_t k_near = 192;
    static constexpr std::uint16_t k_size_mask = 0x0fff;
    static_assert(k_max_piece_bytes <= k_size_mask);

    [[nodiscard]] static std::uint32_t granules_of(std::uint32_t bytes) noexcept {
        return static_cast<std::uint32_t>(text_granules(bytes));
    }
    /// The first granule at or after `from` that is used, or not; `k_granules` if there is none.
    [[nodiscard]] std::uint32_t next(std::uint32_t from, bool used) const noexcept;
    /// One after the last used granule below `from`; if there is none among the last `k_near`, a free granule that is
    /// at least as many below it, or 0.
    [[nodiscard]] std::uint32_t hole_begin(std::uint32_t from) const noexcept;
    void assign(std::uint32_t begin, std::uint32_t count, bool used) noexcept;

    // Invariant: bit i is set iff granule i is part of a piece.
    std::array<std::uint64_t, k_words> used_{};
    // Of a piece that begins at granule i: its bytes, and its flags in the upper four bits; else 0.
    std::array<std::uint16_t, k_granules> pieces_{};
    std::uint32_t free_ = k_granules;
    std::uint32_t largest_ = k_granules;

    friend class TextChunks;  // which keeps its links here
    TextChunk* next_ = nullptr;
    TextChunk* previous_ = nullptr;
    std::uint32_t bin_ = 0;
    std::uint32_t index_ = 0;
};

// --- in the path of each allocation and free ---

inline std::uint32_t TextChunk::next(std::uint32_t from, bool used) const noexcept {
    if (from >= k_granules) return k_granules;
    const std::uint64_t flip = used ? 0 : ~std::uint64_t{0};
    std::uint32_t word = from / 64;
    std::uint64_t bits = (used_[word] ^ flip) & (~std::uint64_t{0} << (from % 64));
    while (bits == 0) {
        if (++word == k_words) return k_granules;
        bits = used_[word] ^ flip;
    }
    return word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
}

inline std::uint32_t TextChunk::hole_begin(std::uint32_t from) const noexcept {
    const std::uint32_t lowest = from < k_near ? 0 : (from - k_near) / 64;
    std::uint32_t word = from / 64;
    std::uint64_t bits = used_[word] & ~(~std::uint64_t{0} << (from % 64));
    while (bits == 0) {
        if (word == lowest) return word * 64;
        bits = used_[--word];
    }
    return word * 64 + 64 - static_cast<std::uint32_t>(std::countl_zero(bits));
}

inline void TextChunk::assign(std::uint32_t begin, std::uint32_t count, bool used) noexcept {
    while (count > 0) {
        const std::uint32_t bit = begin % 64;
        const std::uint32_t here = std::min(count, 64 - bit);
        const std::uint64_t mask = (~std::uint64_t{0} >> (64 - here)) << bit;
        if (used)
            used_[begin / 64] |= mask;
        else
            used_[begin / 64] &= ~mask;
        begin += here;
        count -= here;
    }
}

inline void TextChunk::add(std::uint32_t begin, std::uint32_t bytes) noexcept {
    const std::uint32_t count = granules_of(bytes);
    assign(begin, count, true);
    free_ -= count;
    pieces_[begin] = static_cast<std::uint16_t>(bytes);
}

inline void TextChunk::remove(std::uint32_t begin) noexcept {
    const std::uint32_t count = granules_of(pieces_[begin] & k_size_mask);
    pieces_[begin] = 0;
    assign(begin, count, false);
    free_ += count;
    // The hole that it is now, if that is soon found out; no hole has more than all of them.
    const std::uint32_t first = hole_begin(begin);
    largest_ = std::max(largest_, begin - first < k_near ? next(begin + count, true) - first : free_);
}

}  // namespace harena
