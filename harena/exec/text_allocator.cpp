// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_allocator.hpp"

#include <algorithm>

namespace harena {

namespace {
constexpr std::uint64_t granule_of(std::uint64_t offset) noexcept { return offset / k_text_granule; }
constexpr std::uint64_t offset_of(std::uint64_t granule) noexcept { return granule * k_text_granule; }
constexpr std::uint32_t in_chunk(std::uint64_t granule) noexcept {
    return static_cast<std::uint32_t>(granule % TextChunk::k_granules);
}
}  // namespace

TextAllocator::TextAllocator(std::uint64_t blocks)
    : free_{blocks * k_block_granules}, chunks_{blocks * k_block_granules}, free_in_block_(blocks), mapped_(blocks) {
    // Taken one by one, so that they can be given one by one without memory.
    for (std::uint64_t i = 0; i < blocks; ++i) (void)free_.take(k_block_granules);
}

void TextAllocator::count_free(std::uint64_t first, std::uint64_t granules, bool free) noexcept {
    while (granules > 0) {
        const std::uint64_t block = first / k_block_granules;
        const std::uint64_t here = std::min(granules, (block + 1) * k_block_granules - first);
        std::uint32_t& count = free_in_block_[block];
        if (!free && count == k_block_granules) --counts_.empty_blocks;
        count = static_cast<std::uint32_t>(free ? count + here : count - here);
        if (free && count == k_block_granules) ++counts_.empty_blocks;
        first += here;
        granules -= here;
    }
}

std::optional<std::uint64_t> TextAllocator::take(std::uint64_t granules, std::uint64_t alignment) {
    // Low addresses first, so that high ones become free; of a few holes the one that leaves the least over.
    constexpr unsigned k_candidates = 8;
    const auto first = free_.take(granules, alignment, k_candidates);
    if (!first) return std::nullopt;
    count_free(first->value(), granules, false);
    return first->value();
}

void TextAllocator::give(std::uint64_t first, std::uint64_t granules) noexcept {
    free_.give(VmPage{first}, granules);
    count_free(first, granules, true);
}

bool TextAllocator::make_chunk() {
    const auto first = take(TextChunk::k_granules, TextChunk::k_granules);
    if (!first) return false;
    try {
        chunks_.add(*first);
    } catch (...) {
        give(*first, TextChunk::k_granules);
        throw;
    }
    return true;
}

std::optional<std::uint64_t> TextAllocator::carve(std::uint64_t granules, std::uint64_t alignment) {
    const auto wanted = static_cast<std::uint32_t>(granules);
    const auto granule_alignment = static_cast<std::uint32_t>(alignment / k_text_granule);
    if (const auto at = chunks_.carve(wanted, granule_alignment)) return at;
    if (!make_chunk()) return std::nullopt;
    return chunks_.carve(wanted, granule_alignment);
}

void TextAllocator::add_small(std::uint64_t granule, std::uint64_t bytes) noexcept {
    chunks_.find(granule)->add(in_chunk(granule), static_cast<std::uint32_t>(bytes));
    count_added(bytes);
}

std::optional<std::uint64_t> TextAllocator::allocate(std::uint64_t bytes, std::uint64_t alignment) {
    const std::uint64_t granules = text_granules(bytes);
    // Chunks are no place for alignments of their own size.
    if (is_small(bytes) && alignment <= k_page_size) {
        const auto granule = carve(granules, alignment);
        if (!granule) return std::nullopt;
        add_small(*granule, bytes);
        return offset_of(*granule);
    }
    const auto granule = take(granules, alignment / k_text_granule);
    if (!granule) return std::nullopt;
    try {
        large_.emplace(offset_of(*granule), Large{.bytes = bytes, .flags = {}});
    } catch (...) {
        give(*granule, granules);
        throw;
    }
    count_added(bytes);
    return offset_of(*granule);
}

bool TextAllocator::allocate_adjoining(std::span<const std::uint64_t> sizes, std::span<std::uint64_t> offsets) {
    std::uint64_t granules = 0;
    for (const std::uint64_t bytes : sizes) granules += text_granules(bytes);
    auto granule = carve(granules, k_text_granule);
    if (!granule) return false;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        add_small(*granule, sizes[i]);
        offsets[i] = offset_of(*granule);
        *granule += text_granules(sizes[i]);
    }
    return true;
}

std::optional<TextPiece> TextAllocator::at(std::uint64_t offset) const noexcept {
    if (offset % k_text_granule != 0) return std::nullopt;
    const std::uint64_t granule = granule_of(offset);
    if (const TextChunk* const chunk = chunks_.find(granule)) {
        const auto piece = chunk->at(in_chunk(granule));
        if (!piece) return std::nullopt;
        return TextPiece{.offset = offset, .bytes = piece->bytes, .flags = piece->flags};
    }
    const auto found = large_.find(offset);
    if (found == large_.end()) return std::nullopt;
    return TextPiece{.offset = offset, .bytes = found->second.bytes, .flags = found->second.flags};
}

std::optional<TextPiece> TextAllocator::containing(std::uint64_t offset) const noexcept {
    const std::uint64_t granule = granule_of(offset);
    if (const TextChunk* const chunk = chunks_.find(granule)) {
        const auto piece = chunk->containing(in_chunk(granule));
        if (!piece) return std::nullopt;
        return TextPiece{.offset = offset_of(granule - in_chunk(granule) + piece->begin),
                         .bytes = piece->bytes,
                         .flags = piece->flags};
    }
    auto after = large_.upper_bound(offset);
    if (after == large_.begin()) return std::nullopt;
    const auto& [begin, large] = *--after;
    const TextPiece piece{.offset = begin, .bytes = large.bytes, .flags = large.flags};
    return offset < piece.room_end() ? std::optional{piece} : std::nullopt;
}

void TextAllocator::set_flags(const TextPiece& piece, TextPieceFlags flags) noexcept {
    const std::uint64_t granule = granule_of(piece.offset);
    if (TextChunk* const chunk = chunks_.find(granule))
        chunk->set_flags(in_chunk(granule), flags);
    else
        large_.find(piece.offset)->second.flags = flags;
}

bool TextAllocator::free_untouched(std::uint64_t offset) noexcept {
    const std::uint64_t granule = granule_of(offset);
    TextChunk* const chunk = chunks_.find(granule);
    if (chunk == nullptr || offset % k_text_granule != 0) return false;
    const std::uint32_t bytes = chunk->untouched_at(in_chunk(granule));
    if (bytes == 0) return false;
    count_removed(bytes);
    chunk->remove(in_chunk(granule));
    if (chunks_.removed_from(*chunk)) give(chunks_.remove(*chunk), TextChunk::k_granules);
    return true;
}

void TextAllocator::free(const TextPiece& piece) noexcept {
    const std::uint64_t granule = granule_of(piece.offset);
    count_removed(piece.bytes);
    if (TextChunk* const chunk = chunks_.find(granule)) {
        chunk->remove(in_chunk(granule));
        if (chunks_.removed_from(*chunk)) give(chunks_.remove(*chunk), TextChunk::k_granules);
    } else {
        large_.erase(piece.offset);
        give(granule, text_granules(piece.bytes));
    }
}

bool TextAllocator::is_free_in_chunk(std::uint64_t begin, std::uint64_t end) const noexcept {
    const std::uint64_t first = granule_of(begin);
    const std::uint64_t last = granule_of(end) - 1;
    const TextChunk* const chunk = chunks_.find(first);
    return chunk != nullptr && chunk == chunks_.find(last) && chunk->is_free(in_chunk(first), in_chunk(last) + 1);
}

std::optional<TextAllocator::Blocks> TextAllocator::blocks_for(std::uint64_t bytes,
                                                               std::uint64_t alignment) const noexcept {
    const bool small = is_small(bytes) && alignment <= k_page_size;
    const std::uint64_t granules = small ? TextChunk::k_granules : text_granules(bytes);
    const std::uint64_t multiple = small ? TextChunk::k_granules : alignment / k_text_granule;
    const std::uint64_t count = mapped_.size();
    for (std::uint64_t begin = 0; begin < count;) {
        if (mapped_[begin]) {
            ++begin;
            continue;
        }
        std::uint64_t end = begin;
        while (end < count && !mapped_[end]) ++end;
        // What is free on either side is part of it.
        const std::uint64_t gap_begin = begin * k_block_granules;
        const std::uint64_t gap_end = end * k_block_granules;
        const std::uint64_t first = align_up(gap_begin - free_.free_before(VmPage{gap_begin}), multiple);
        const std::uint64_t last = first + granules;
        if (last <= gap_end + free_.free_from(VmPage{gap_end}))
            return Blocks{.begin = std::max(begin, first / k_block_granules),
                          .end = std::min(end, (last + k_block_granules - 1) / k_block_granules)};
        begin = end;
    }
    return std::nullopt;
}

void TextAllocator::add_block(std::uint64_t block) noexcept {
    mapped_[block] = true;
    ++counts_.mapped_blocks;
    give(block * k_block_granules, k_block_granules);
}

std::optional<std::uint64_t> TextAllocator::empty_block(std::uint64_t below) const noexcept {
    for (std::uint64_t block = std::min<std::uint64_t>(below, mapped_.size()); block-- > 0;)
        if (free_in_block_[block] == k_block_granules) return block;
    return std::nullopt;
}

void TextAllocator::remove_block(std::uint64_t block) {
    free_.take_at(VmPage{block * k_block_granules}, k_block_granules);
    count_free(block * k_block_granules, k_block_granules, false);
    mapped_[block] = false;
    --counts_.mapped_blocks;
    chunks_.release_spares(counts_.empty_blocks * (k_block_granules / TextChunk::k_granules));
}

void TextAllocator::release_chunk() noexcept {
    if (TextChunk* const chunk = chunks_.empty_current()) give(chunks_.remove(*chunk), TextChunk::k_granules);
}

TextAllocator::Counts TextAllocator::counts() const noexcept {
    Counts counts = counts_;
    counts.chunks = chunks_.count();
    return counts;
}

std::uint64_t TextAllocator::largest_free() noexcept {
    return std::max(offset_of(free_.largest()), std::min(offset_of(chunks_.largest()), TextChunk::k_max_piece_bytes));
}

}  // namespace harena
