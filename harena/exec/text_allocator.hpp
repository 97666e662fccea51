// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "harena/exec/text_chunks.hpp"
#include "harena/exec/text_file.hpp"
#include "harena/vm/range_tree.hpp"

namespace harena {

/// A piece of text: bytes [offset, offset + bytes) of its space.
struct TextPiece {
    std::uint64_t offset = 0;
    /// As many as were asked for.
    std::uint64_t bytes = 0;
    TextPieceFlags flags = {};

    [[nodiscard]] std::uint64_t end() const noexcept { return offset + bytes; }
    /// Where the next piece can begin.
    [[nodiscard]] std::uint64_t room_end() const noexcept { return offset + text_granules(bytes) * k_text_granule; }
};

/// Which text of a space is whose: free ranges of blocks that are mapped, chunks for small pieces, and what is known
/// of each piece. Knows neither file nor addresses, and makes no system call. Not thread-safe.
///
/// Functions throw std::bad_alloc where they say so, and then nothing has changed. Freeing needs no memory.
class TextAllocator {
public:
    struct Counts {
        std::uint64_t pieces = 0;
        /// As many as were asked for, and with what their rounding takes.
        std::uint64_t used_bytes = 0;
        std::uint64_t room_bytes = 0;
        std::uint64_t mapped_blocks = 0;
        std::uint64_t empty_blocks = 0;
        std::uint64_t chunks = 0;
    };

    /// For `blocks` blocks of 2 MiB, none of which is mapped. Throws.
    explicit TextAllocator(std::uint64_t blocks);

    /// A piece at a multiple of `alignment` (a power of two from 16 on); none if blocks must be added first. Throws.
    [[nodiscard]] std::optional<std::uint64_t> allocate(std::uint64_t bytes, std::uint64_t alignment);
    /// Pieces that adjoin, all small, and 128 KiB together at most, to `offsets`. False as above. Throws.
    [[nodiscard]] bool allocate_adjoining(std::span<const std::uint64_t> sizes, std::span<std::uint64_t> offsets);
    [[nodiscard]] static bool is_small(std::uint64_t bytes) noexcept { return bytes <= TextChunk::k_max_piece_bytes; }

    /// The piece that begins at `offset`, and the one that the byte is in.
    [[nodiscard]] std::optional<TextPiece> at(std::uint64_t offset) const noexcept;
    [[nodiscard]] std::optional<TextPiece> containing(std::uint64_t offset) const noexcept;
    void set_flags(const TextPiece& piece, TextPieceFlags flags) noexcept;
    void free(const TextPiece& piece) noexcept;
    /// The same for a small piece that begins at `offset` and has no flags; false if there is none.
    bool free_untouched(std::uint64_t offset) noexcept;
    /// Whether [begin, end), which is in one chunk, is in no piece. False if it is in none or in several.
    [[nodiscard]] bool is_free_in_chunk(std::uint64_t begin, std::uint64_t end) const noexcept;

    struct Blocks {
        std::uint64_t begin;
        std::uint64_t end;
    };
    /// The blocks that must be added so that `allocate` finds a place, the lowest that do; none if none do.
    [[nodiscard]] std::optional<Blocks> blocks_for(std::uint64_t bytes, std::uint64_t alignment) const noexcept;
    /// The same for `allocate_adjoining`.
    [[nodiscard]] std::optional<Blocks> blocks_for_chunk() const noexcept { return blocks_for(1, k_text_granule); }
    void add_block(std::uint64_t block) noexcept;
    /// The last block that is free as a whole, below `below`.
    [[nodiscard]] std::optional<std::uint64_t> empty_block(std::uint64_t below) const noexcept;
    /// Throws.
    void remove_block(std::uint64_t block);
    /// Gives the empty chunk back that is kept to go on in.
    void release_chunk() noexcept;

    [[nodiscard]] Counts counts() const noexcept;
    [[nodiscard]] std::uint64_t empty_blocks() const noexcept { return counts_.empty_blocks; }
    /// The largest piece that can be had without another block, in bytes; looks at all chunks.
    [[nodiscard]] std::uint64_t largest_free() noexcept;

private:
    static constexpr std::uint64_t k_block_granules = k_text_block / k_text_granule;

    /// Of a piece that is too large for a chunk.
    struct Large {
        std::uint64_t bytes;
        TextPieceFlags flags;
    };

    /// Granules from `free_`, and back.
    [[nodiscard]] std::optional<std::uint64_t> take(std::uint64_t granules, std::uint64_t alignment);
    void give(std::uint64_t first, std::uint64_t granules) noexcept;
    void count_free(std::uint64_t first, std::uint64_t granules, bool free) noexcept;
    [[nodiscard]] bool make_chunk();
    [[nodiscard]] std::optional<std::uint64_t> carve(std::uint64_t granules, std::uint64_t alignment);
    void add_small(std::uint64_t granule, std::uint64_t bytes) noexcept;
    void count_added(std::uint64_t bytes) noexcept {
        ++counts_.pieces;
        counts_.used_bytes += bytes;
        counts_.room_bytes += text_granules(bytes) * k_text_granule;
    }
    void count_removed(std::uint64_t bytes) noexcept {
        --counts_.pieces;
        counts_.used_bytes -= bytes;
        counts_.room_bytes -= text_granules(bytes) * k_text_granule;
    }

    // In granules. Of mapped blocks, what is in no chunk and no large piece; the rest is taken.
    RangeTree free_;
    TextChunks chunks_;
    std::map<std::uint64_t, Large> large_;      // by offset
    std::vector<std::uint32_t> free_in_block_;  // granules of `free_`
    std::vector<bool> mapped_;
    Counts counts_;
};

}  // namespace harena
