// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_store.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

namespace harena {

Result<std::unique_ptr<PageStore>> PageStore::create(const Options& options) {
    if (options.nodes == 0 || options.nodes > k_max_nodes)
        return fail(EINVAL, "a pool of {} nodes: there are 1 to {}", options.nodes, k_max_nodes);
    HARENA_TRY(auto direct_map, DirectMap::create(options.direct_map));
    HARENA_TRY(PageArray pages, PageArray::create(static_cast<std::uint32_t>(options.direct_map.capacity.value())));
    return std::unique_ptr<PageStore>{new PageStore{std::move(pages), std::move(direct_map), options.nodes}};
}

PageStore::PageStore(PageArray pages, std::unique_ptr<DirectMap> direct_map, unsigned nodes)
    : pages_{std::move(pages)},
      direct_map_{std::move(direct_map)},
      pageblocks_{std::make_unique<Pageblock[]>(pages_.size() / k_pageblock_pages)},
      grown_{pages_.size() / k_pageblock_pages} {
    for (unsigned i = 0; i < nodes; ++i) nodes_.push_back(std::make_unique<Node>(pages_, static_cast<std::uint8_t>(i)));
}

template <typename Visit>
bool PageStore::any_node(NodeChoice choice, Visit&& visit) const {
    if (visit(*nodes_[choice.preferred])) return true;
    if (choice.strict) return false;
    for (unsigned i = 1; i < nodes(); ++i)
        if (visit(*nodes_[(choice.preferred + i) % nodes()])) return true;
    return false;
}

std::optional<FreeBlock> PageStore::take_free(Order order, NodeChoice choice) noexcept {
    std::optional<FreeBlock> block;
    any_node(choice, [&](Node& node) {
        const std::lock_guard lock{node.mutex};
        block = node.free.take(order);
        return block.has_value();
    });
    return block;
}

std::optional<FreeBlock> PageStore::take_largest(Order order) noexcept {
    for (std::uint8_t k = k_max_order.value() + 1; k-- > order.value();)
        if (auto block = take_free(Order{k}, {})) return block;
    return std::nullopt;
}

std::optional<FreeBlock> PageStore::take_at(Pfn first, Order order) noexcept {
    Node& node = node_of(first);
    const std::lock_guard lock{node.mutex};
    return node.free.take_at(first, order);
}

std::size_t PageStore::take_single_pages(std::span<FreeBlock> pages, NodeChoice choice) noexcept {
    std::size_t taken = 0;
    any_node(choice, [&](Node& node) {
        const std::lock_guard lock{node.mutex};
        while (taken < pages.size()) {
            // The largest block that is not more than what is wanted, and if there is none, the next smaller.
            auto order = static_cast<std::uint8_t>(std::bit_width(pages.size() - taken) - 1);
            order = std::min(order, k_max_order.value());
            std::optional<FreeBlock> block;
            while (!(block = node.free.take(Order{order})) && order > 0) --order;
            if (!block) return false;
            for (std::uint32_t i = 0; i < pages_of(block->order); ++i) {
                const FreeBlock page{.first = block->first + i, .order = Order{}, .zero = block->zero};
                pages_[page.first].store({.state = BlockState::cached, .zero = page.zero});
                pages[taken++] = page;
            }
        }
        return true;
    });
    return taken;
}

Result<FreeBlock> PageStore::take(Order order, NodeChoice choice) {
    const NodeChoice here{.preferred = choice.preferred, .strict = true};
    if (auto block = take_free(order, here)) return *block;
    // One thread at a time: those who waited find what the first one left.
    const std::lock_guard lock{grow_mutex_};
    if (auto block = take_free(order, here)) return *block;
    const auto grown = grow(order, choice.preferred);
    if (!grown) {
        if (!choice.strict)
            if (auto block = take_free(order, choice)) return *block;
        return grown;
    }
    if (grown->order == order) return grown;
    // Only what is over is given to the others: nobody takes this block before we have ours.
    Node& owner = node_of(grown->first);
    const std::lock_guard owner_lock{owner.mutex};
    owner.free.give(*grown);
    return *owner.free.take_at(grown->first, order);
}

Result<FreeBlock> PageStore::grow(Order order, unsigned node) {
    if (order <= k_pageblock_order) {
        const std::size_t room = grown_.find_next_clear(0);
        if (room == grown_.size()) return no_room(order);
        const Pfn first{static_cast<std::uint32_t>(room * k_pageblock_pages)};
        HARENA_CHECK_OK(grow_pageblock(first, node));
        return FreeBlock{.first = first, .order = k_pageblock_order, .zero = true};
    }
    // Two that are buddies: both new, or one new and the other free on this node.
    for (std::size_t room = grown_.find_next_clear(0); room < grown_.size(); room = grown_.find_next_clear(room + 1)) {
        if ((room ^ 1) >= grown_.size()) continue;
        const Pfn first{static_cast<std::uint32_t>(room * k_pageblock_pages)};
        const Pfn buddy{first.value() ^ k_pageblock_pages};
        std::optional<FreeBlock> other;
        if (grown_.test(room ^ 1)) {
            if (pageblock(buddy).node.load(std::memory_order_relaxed) == node)
                other = take_at(buddy, k_pageblock_order);
            if (!other) continue;
        }
        Result<void> grown = grow_pageblock(first, node);
        if (grown && !other) {
            grown = grow_pageblock(buddy, node);
            if (!grown) give(FreeBlock{.first = first, .order = k_pageblock_order, .zero = true});
        } else if (!grown && other) {
            give(*other);
        }
        if (!grown) return pass_on(grown.error());
        const FreeBlock block{.first = std::min(first, buddy), .order = k_max_order, .zero = !other || other->zero};
        pages_[std::max(first, buddy)].store({});
        pages_[block.first].store({.state = BlockState::cached, .order = block.order, .zero = block.zero});
        return block;
    }
    return no_room(order);
}

std::unexpected<Error> PageStore::no_room(Order order) const {
    return fail(ENOMEM, "the pool has no free block of {} pages and is at its capacity of {} pages", pages_of(order),
                capacity().value());
}

Result<void> PageStore::grow_pageblock(Pfn pageblock, unsigned node) {
    HARENA_CHECK_OK(direct_map_->grow(pageblock, nodes() > 1 ? std::optional{node} : std::nullopt));
    this->pageblock(pageblock).node.store(static_cast<std::uint8_t>(node), std::memory_order_relaxed);
    pages_[pageblock].store({.state = BlockState::cached, .order = k_pageblock_order, .zero = true});
    grown_.set(pageblock_of(pageblock));
    grown_pages_.fetch_add(k_pageblock_pages, std::memory_order_relaxed);
    return {};
}

void PageStore::give(const FreeBlock& block) noexcept {
    Node& node = node_of(block.first);
    const std::lock_guard lock{node.mutex};
    node.free.give(block);
}

void PageStore::give(std::span<const FreeBlock> blocks) noexcept {
    if (nodes() == 1) {
        const std::lock_guard lock{nodes_[0]->mutex};
        for (const FreeBlock& block : blocks) nodes_[0]->free.give(block);
        return;
    }
    for (const FreeBlock& block : blocks) give(block);
}

Result<PageCount> PageStore::give_back(PageCount wanted) {
    const std::lock_guard lock{grow_mutex_};
    PageCount done{};
    while (done < wanted) {
        const auto block = take_free(k_pageblock_order, {});
        if (!block) break;
        if (const auto gone = direct_map_->give_back(block->first); !gone) {
            give({.first = block->first, .order = block->order, .zero = false});
            if (done == PageCount{}) return pass_on(gone.error());
            break;
        }
        pages_[block->first].store({});
        grown_.clear(pageblock_of(block->first));
        grown_pages_.fetch_sub(k_pageblock_pages, std::memory_order_relaxed);
        done = PageCount{done.value() + k_pageblock_pages};
    }
    return done;
}

PerOrder PageStore::free_blocks() const {
    PerOrder sum{};
    for (const auto& node : nodes_) {
        const std::lock_guard lock{node->mutex};
        for (std::size_t k = 0; k < k_orders; ++k) sum[k] += node->free.blocks()[k];
    }
    return sum;
}

PageCount PageStore::free_pages() const {
    std::uint64_t sum = 0;
    for (const auto& node : nodes_) {
        const std::lock_guard lock{node->mutex};
        sum += node->free.pages();
    }
    return PageCount{sum};
}

}  // namespace harena
