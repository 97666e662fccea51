// SPDX-License-Identifier: Apache-2.0
#include "harena/page/free_blocks.hpp"

#include <bit>

namespace harena {

FreeBlocks::FreeBlocks(const PageArray& pages, std::uint8_t list) noexcept : pages_{pages}, list_{list} {
    heads_.fill(k_none);
}

std::optional<FreeBlock> FreeBlocks::take(Order order) noexcept {
    const std::uint32_t large_enough = has_blocks_ >> order.value();
    if (large_enough == 0) return std::nullopt;
    const auto found = static_cast<unsigned>(order.value()) + static_cast<unsigned>(std::countr_zero(large_enough));
    const FreeBlock block = unlink(Pfn{heads_[found]});
    return split(block, block.first, order);
}

std::optional<FreeBlock> FreeBlocks::take_largest() noexcept {
    if (has_blocks_ == 0) return std::nullopt;
    return unlink(Pfn{heads_[static_cast<unsigned>(std::bit_width(has_blocks_)) - 1]});
}

std::optional<FreeBlock> FreeBlocks::take_at(Pfn first, Order order) noexcept {
    for (std::uint8_t k = order.value(); k <= k_max_order.value(); ++k) {
        const Pfn begin{first.value() & ~(pages_of(Order{k}) - 1)};
        const auto block = at(begin);
        if (block && block->order.value() == k) return split(unlink(begin), first, order);
    }
    return std::nullopt;
}

Order FreeBlocks::give(const FreeBlock& block) noexcept {
    FreeBlock merged = block;
    while (merged.order < k_max_order) {
        const Pfn buddy{merged.first.value() ^ pages_of(merged.order)};
        if (buddy.value() >= pages_.size()) break;
        const auto free = at(buddy);
        if (!free || free->order != merged.order) break;
        unlink(buddy);
        pages_[std::max(merged.first, buddy)].store({});  // inside from now on
        merged = {.first = std::min(merged.first, buddy),
                  .order = Order{static_cast<std::uint8_t>(merged.order.value() + 1)},
                  .zero = merged.zero && free->zero};
    }
    link(merged);
    return merged.order;
}

std::optional<FreeBlock> FreeBlocks::at(Pfn pfn) const noexcept {
    const PageWord word = pages_[pfn].load();
    if (word.state != BlockState::free || word.list != list_) return std::nullopt;
    return FreeBlock{.first = pfn, .order = word.order, .zero = word.zero};
}

FreeBlock FreeBlocks::split(FreeBlock block, Pfn first, Order order) noexcept {
    while (block.order > order) {
        const Order half{static_cast<std::uint8_t>(block.order.value() - 1)};
        const Pfn low = block.first;
        const Pfn high = low + pages_of(half);
        const bool wanted_is_low = first < high;
        link({.first = wanted_is_low ? high : low, .order = half, .zero = block.zero});
        block = {.first = wanted_is_low ? low : high, .order = half, .zero = block.zero};
    }
    pages_[block.first].store({.state = BlockState::cached, .order = order, .zero = block.zero});
    return block;
}

void FreeBlocks::link(const FreeBlock& block) noexcept {
    Page& page = pages_[block.first];
    std::uint32_t& head = heads_[block.order.value()];
    page.next_ = head;
    page.previous_ = k_none;
    if (head != k_none) pages_[Pfn{head}].previous_ = block.first.value();
    head = block.first.value();
    ++counts_[block.order.value()];
    has_blocks_ |= 1U << block.order.value();
    total_ += pages_of(block.order);
    page.store({.state = BlockState::free, .order = block.order, .list = list_, .zero = block.zero});
}

FreeBlock FreeBlocks::unlink(Pfn first) noexcept {
    Page& page = pages_[first];
    const PageWord word = page.load();
    std::uint32_t& head = heads_[word.order.value()];
    (page.previous_ == k_none ? head : pages_[Pfn{page.previous_}].next_) = page.next_;
    if (page.next_ != k_none) pages_[Pfn{page.next_}].previous_ = page.previous_;
    if (--counts_[word.order.value()] == 0) has_blocks_ &= ~(1U << word.order.value());
    total_ -= pages_of(word.order);
    page.store({.state = BlockState::cached, .order = word.order, .zero = word.zero});
    return {.first = first, .order = word.order, .zero = word.zero};
}

}  // namespace harena
