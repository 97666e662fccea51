// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_chunks.hpp"

#include <algorithm>
#include <bit>

namespace harena {

TextChunks::TextChunks(std::uint64_t granules)
    : chunks_((granules + TextChunk::k_granules - 1) / TextChunk::k_granules) {}

void TextChunks::link(TextChunk& chunk) noexcept {
    chunk.bin_ = bin_of(chunk.largest_);
    TextChunk*& head = bins_[chunk.bin_];
    chunk.previous_ = nullptr;
    chunk.next_ = head;
    if (head != nullptr) head->previous_ = &chunk;
    head = &chunk;
    bins_in_use_ |= std::uint64_t{1} << chunk.bin_;
}

void TextChunks::unlink(TextChunk& chunk) noexcept {
    if (chunk.next_ != nullptr) chunk.next_->previous_ = chunk.previous_;
    (chunk.previous_ != nullptr ? chunk.previous_->next_ : bins_[chunk.bin_]) = chunk.next_;
    if (bins_[chunk.bin_] == nullptr) bins_in_use_ &= ~(std::uint64_t{1} << chunk.bin_);
}

void TextChunks::move(TextChunk& chunk) noexcept {
    if (bin_of(chunk.largest_) == chunk.bin_) return;
    unlink(chunk);
    link(chunk);
}

void TextChunks::add(std::uint64_t first_granule) {
    const std::uint64_t index = first_granule / TextChunk::k_granules;
    if (spares_.empty()) {
        if (spares_.capacity() <= count_) spares_.reserve(2 * count_ + 16);
        chunks_[index] = std::make_unique<TextChunk>();
    } else {
        chunks_[index] = std::move(spares_.back());
        spares_.pop_back();
    }
    chunks_[index]->index_ = static_cast<std::uint32_t>(index);
    link(*chunks_[index]);
    ++count_;
}

std::uint64_t TextChunks::remove(TextChunk& chunk) noexcept {
    const std::uint64_t index = chunk.index_;
    if (run_end_ != 0 && (run_end_ - 1) / TextChunk::k_granules == index) run_begin_ = run_end_ = 0;
    unlink(chunk);
    chunk.largest_ = TextChunk::k_granules;
    spares_.push_back(std::move(chunks_[index]));
    --count_;
    return index * TextChunk::k_granules;
}

bool TextChunks::find_run_in(TextChunk& chunk, std::uint32_t granules) noexcept {
    const auto hole = chunk.find_hole(granules);
    if (!hole) {
        move(chunk);
        return false;
    }
    const std::uint64_t first = std::uint64_t{chunk.index_} * TextChunk::k_granules;
    run_begin_ = first + hole->begin;
    run_end_ = first + hole->end;
    return true;
}

bool TextChunks::find_run(std::uint32_t granules) noexcept {
    if (granules > TextChunk::k_granules) return false;
    // Some of this bin have a hole that is large enough; a few are asked.
    constexpr int k_tries = 4;
    const std::uint32_t bin = bin_of(granules);
    TextChunk* next = bins_[bin];
    for (int i = 0; i < k_tries && next != nullptr; ++i) {
        TextChunk& chunk = *next;
        next = chunk.next_;
        if (chunk.largest_ >= granules && find_run_in(chunk, granules)) return true;
    }
    // All of the others have, unless what was known is old; then they move to a lower bin.
    for (;;) {
        const std::uint64_t larger = bin + 1 >= k_bins ? 0 : bins_in_use_ >> (bin + 1) << (bin + 1);
        if (larger == 0) return false;
        if (find_run_in(*bins_[static_cast<std::uint32_t>(std::countr_zero(larger))], granules)) return true;
    }
}

TextChunk* TextChunks::empty_current() const noexcept {
    if (run_end_ == 0) return nullptr;
    TextChunk* const chunk = find(run_end_ - 1);
    return chunk != nullptr && chunk->free_ == TextChunk::k_granules ? chunk : nullptr;
}

std::uint32_t TextChunks::largest() noexcept {
    std::uint32_t largest = 0;
    for (const auto& chunk : chunks_) {
        if (!chunk) continue;
        (void)chunk->find_hole(TextChunk::k_granules + 1);
        move(*chunk);
        largest = std::max(largest, chunk->largest_);
    }
    return largest;
}

}  // namespace harena
