// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_chunk.hpp"

#include <algorithm>

namespace harena {

namespace {

constexpr std::uint16_t k_written = 1U << 12;
constexpr std::uint16_t k_retired = 1U << 13;
constexpr std::uint16_t k_patching = 1U << 14;
constexpr std::uint16_t k_patched = 1U << 15;

TextPieceFlags flags_of(std::uint16_t word) noexcept {
    return {.written = (word & k_written) != 0,
            .retired = (word & k_retired) != 0,
            .patching = (word & k_patching) != 0,
            .patched = (word & k_patched) != 0};
}

std::uint16_t bits_of(TextPieceFlags flags) noexcept {
    return static_cast<std::uint16_t>((flags.written ? k_written : 0) | (flags.retired ? k_retired : 0) |
                                      (flags.patching ? k_patching : 0) | (flags.patched ? k_patched : 0));
}

}  // namespace

std::optional<TextChunk::Hole> TextChunk::find_hole(std::uint32_t granules) noexcept {
    std::uint32_t largest = 0;
    for (std::uint32_t begin = next(0, false); begin < k_granules;) {
        const std::uint32_t end = next(begin, true);
        if (end - begin >= granules) return Hole{.begin = begin, .end = end};
        largest = std::max(largest, end - begin);
        begin = next(end, false);
    }
    largest_ = largest;
    return std::nullopt;
}

std::optional<TextChunk::Piece> TextChunk::at(std::uint32_t begin) const noexcept {
    const std::uint16_t word = pieces_[begin];
    if (word == 0) return std::nullopt;
    return Piece{.begin = begin, .bytes = word & std::uint32_t{k_size_mask}, .flags = flags_of(word)};
}

std::optional<TextChunk::Piece> TextChunk::containing(std::uint32_t granule) const noexcept {
    constexpr std::uint32_t k_most = k_max_piece_bytes / k_text_granule;
    const std::uint32_t lowest = granule < k_most ? 0 : granule - k_most + 1;
    for (std::uint32_t begin = granule;; --begin) {
        if (const auto piece = at(begin)) {
            if (begin + granules_of(piece->bytes) > granule) return piece;
            return std::nullopt;
        }
        if (begin == lowest) return std::nullopt;
    }
}

void TextChunk::set_flags(std::uint32_t begin, TextPieceFlags flags) noexcept {
    pieces_[begin] = static_cast<std::uint16_t>((pieces_[begin] & k_size_mask) | bits_of(flags));
}

}  // namespace harena
