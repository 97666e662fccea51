// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_blocks.hpp"

#include <algorithm>

#include "harena/secret/wipe.hpp"

namespace harena {

std::optional<std::uint64_t> SecretBlocks::find(const Block& block, std::uint64_t pages) noexcept {
    if (block.free_pages < pages) return std::nullopt;
    for (std::size_t begin = block.used.find_next_clear(0); begin + pages <= block.used.size();) {
        const std::size_t end = block.used.find_next_set(begin);
        if (end - begin >= pages) return begin;
        begin = block.used.find_next_clear(end);
    }
    return std::nullopt;
}

bool SecretBlocks::has(std::uint64_t pages) const noexcept {
    return std::ranges::any_of(blocks_, [pages](const Block& block) { return find(block, pages).has_value(); });
}

std::byte* SecretBlocks::take(std::uint64_t pages) noexcept {
    for (Block& block : blocks_) {
        const auto first = find(block, pages);
        if (!first) continue;
        block.used.set_range(*first, *first + pages);
        block.free_pages -= pages;
        return block.span.begin + *first * k_page_size;
    }
    return nullptr;
}

void SecretBlocks::give(const std::byte* first, std::uint64_t pages) noexcept {
    Block& block = *std::prev(std::ranges::upper_bound(blocks_, first, {}, [](const Block& one) {
        return static_cast<const std::byte*>(one.span.begin);
    }));
    const auto page = static_cast<std::uint64_t>(first - block.span.begin) / k_page_size;
    block.used.clear_range(page, page + pages);
    block.free_pages += pages;
}

void SecretBlocks::add(const SecretSpan& span, Bitmap used) noexcept {
    const auto at = std::ranges::upper_bound(blocks_, span.begin, {}, [](const Block& one) { return one.span.begin; });
    blocks_.insert(at, {.span = span, .used = std::move(used), .free_pages = span.pages});
}

std::optional<SecretSpan> SecretBlocks::remove_free_block() noexcept {
    const auto found =
        std::ranges::find_if(blocks_, [](const Block& block) { return block.free_pages == block.span.pages; });
    if (found == blocks_.end()) return std::nullopt;
    const SecretSpan span = found->span;
    blocks_.erase(found);
    return span;
}

void SecretBlocks::wipe_all() noexcept {
    for (const Block& block : blocks_) wipe(block.span.begin, block.span.bytes());
}

}  // namespace harena
