// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "harena/base/page_math.hpp"
#include "harena/exec/text_chunk.hpp"

namespace harena {

/// All chunks of a space, found by where they are and by how large their holes are. Granules are counted from the
/// space's begin; chunk i is that of granules [8192 i, 8192 (i + 1)). Not thread-safe.
class TextChunks {
public:
    /// Throws std::bad_alloc.
    explicit TextChunks(std::uint64_t granules);

    /// The chunk that `granule` is in; null if there is none.
    [[nodiscard]] TextChunk* find(std::uint64_t granule) const noexcept {
        return chunks_[granule / TextChunk::k_granules].get();
    }
    /// A new one, that is one hole. Throws std::bad_alloc, and then there is none.
    void add(std::uint64_t first_granule);
    /// Forgets a chunk that is one hole; its first granule. Its description is kept for the next.
    std::uint64_t remove(TextChunk& chunk) noexcept;
    /// Gives back the memory of such descriptions, but for so many.
    void release_spares(std::uint64_t keep) noexcept {
        if (spares_.size() > keep) spares_.resize(keep);
    }

    /// Where `granules` adjoining ones are free, the first a multiple of `alignment`, a power of two: behind what was
    /// carved last, else in another hole. The caller adds pieces there. None if no chunk has so many.
    [[nodiscard]] std::optional<std::uint64_t> carve(std::uint32_t granules, std::uint32_t alignment) noexcept;
    /// To be called after a piece was removed from `chunk`. True if the chunk is one hole and not needed any more.
    bool removed_from(TextChunk& chunk) noexcept;
    /// The chunk that `carve` goes on in, if it is one hole; null otherwise.
    [[nodiscard]] TextChunk* empty_current() const noexcept;

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    /// The largest hole, in granules; looks at all chunks.
    [[nodiscard]] std::uint32_t largest() noexcept;

private:
    // Bin of a hole of n granules: n itself below 16, then four to each doubling.
    static constexpr std::uint32_t k_bins = 56;
    [[nodiscard]] static std::uint32_t bin_of(std::uint32_t granules) noexcept;

    void link(TextChunk& chunk) noexcept;
    void unlink(TextChunk& chunk) noexcept;
    /// To the bin that its largest hole belongs to.
    void move(TextChunk& chunk) noexcept;
    /// Goes on in a hole of at least `granules`; false if there is none.
    bool find_run(std::uint32_t granules) noexcept;
    bool find_run_in(TextChunk& chunk, std::uint32_t granules) noexcept;

    std::vector<std::unique_ptr<TextChunk>> chunks_;  // by number; null where there is none
    std::uint64_t count_ = 0;
    // Invariant: each is one hole, and there is room for all chunks.
    std::vector<std::unique_ptr<TextChunk>> spares_;
    // Invariant: a chunk is in the list of the bin of its `largest`, and bit i of `bins_in_use_` is set iff list i has
    // one.
    std::array<TextChunk*, k_bins> bins_{};
    std::uint64_t bins_in_use_ = 0;
    // Invariant: [run_begin_, run_end_) is free, and in one chunk.
    std::uint64_t run_begin_ = 0;
    std::uint64_t run_end_ = 0;
};

// --- in the path of each allocation and free ---

inline std::uint32_t TextChunks::bin_of(std::uint32_t granules) noexcept {
    constexpr std::uint32_t k_exact = 16;
    if (granules < k_exact) return granules;
    const auto log = static_cast<std::uint32_t>(std::bit_width(granules)) - 1;
    return k_exact + (log - 4) * 4 + ((granules >> (log - 2)) & 3);
}

inline bool TextChunks::removed_from(TextChunk& chunk) noexcept {
    if (bin_of(chunk.largest_) != chunk.bin_) move(chunk);
    if (chunk.free_ != TextChunk::k_granules) return false;
    const std::uint64_t first = std::uint64_t{chunk.index_} * TextChunk::k_granules;
    if (run_end_ <= first || run_begin_ >= first + TextChunk::k_granules) return true;
    // The one in use stays, and is used from its begin again.
    run_begin_ = first;
    run_end_ = first + TextChunk::k_granules;
    return false;
}

inline std::optional<std::uint64_t> TextChunks::carve(std::uint32_t granules, std::uint32_t alignment) noexcept {
    for (bool again = true;; again = false) {
        const std::uint64_t begin = align_up(run_begin_, alignment);
        if (begin + granules <= run_end_) {
            run_begin_ = begin + granules;
            return begin;
        }
        if (!again || !find_run(granules + alignment - 1)) return std::nullopt;
    }
}

}  // namespace harena
