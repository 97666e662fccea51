// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "harena/base/bitmap.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/result.hpp"
#include "harena/page/direct_map.hpp"
#include "harena/page/free_blocks.hpp"
#include "harena/page/page.hpp"

namespace harena {

inline constexpr unsigned k_max_nodes = 64;

/// Which NUMA node memory shall be on: 0 to the pool's number of nodes - 1.
struct NodeChoice {
    unsigned preferred = 0;
    /// Only there; else others serve if that one has none.
    bool strict = false;
};

/// What a pool knows of 2 MiB of its pages.
struct Pageblock {
    /// How many of its pages are out of the direct map. Changed by the unmapped cache.
    std::atomic<std::uint16_t> unmapped{0};
    /// Set while it left only in part, and the rest is to follow as it is freed, so that in the end all of it is out;
    /// not if a part has returned on purpose. Read by every free.
    std::atomic<bool> follows{false};
    /// The node its memory is on; changed while it grows.
    std::atomic<std::uint8_t> node{0};
};

/// The memory of a pool: descriptors, direct map, and the free blocks of each NUMA node. Grows by pageblocks up to its
/// capacity, and gives back pageblocks that are free.
///
/// Hands out plain blocks: who has them, and who is charged, is not known here. Thread-safe.
class PageStore {
public:
    struct Options {
        DirectMapOptions direct_map;
        unsigned nodes = 1;
    };

    /// Errors: those of `DirectMap::create` and `PageArray::create`.
    [[nodiscard]] static Result<std::unique_ptr<PageStore>> create(const Options& options);
    PageStore(const PageStore&) = delete;
    PageStore& operator=(const PageStore&) = delete;
    ~PageStore() = default;

    [[nodiscard]] const PageArray& pages() const noexcept { return pages_; }
    [[nodiscard]] DirectMap& direct_map() const noexcept { return *direct_map_; }
    [[nodiscard]] Pageblock& pageblock(Pfn pfn) const noexcept { return pageblocks_[pageblock_of(pfn)]; }
    [[nodiscard]] PageCount capacity() const noexcept { return PageCount{pages_.size()}; }
    /// Pages of the pageblocks that are in the pool now.
    [[nodiscard]] PageCount grown() const noexcept { return PageCount{grown_pages_.load(std::memory_order_relaxed)}; }
    [[nodiscard]] unsigned nodes() const noexcept { return static_cast<unsigned>(nodes_.size()); }
    /// The calling thread's.
    [[nodiscard]] unsigned current_node() const noexcept { return nodes() == 1 ? 0 : os::current_node() % nodes(); }

    /// A block of `order`; grows if none is free. Errors: ENOMEM: the pool is at its capacity and has no such block, or
    /// the system has no memory for it to grow.
    [[nodiscard]] Result<FreeBlock> take(Order order, NodeChoice node);
    /// The same, but only of what is free already.
    [[nodiscard]] std::optional<FreeBlock> take_free(Order order, NodeChoice node) noexcept;
    /// A block of the largest order that is free on any node, if that is at least `order`.
    [[nodiscard]] std::optional<FreeBlock> take_largest(Order order) noexcept;
    /// The block of `order` at `first`, if it is free.
    [[nodiscard]] std::optional<FreeBlock> take_at(Pfn first, Order order) noexcept;
    /// Up to `pages.size()` single pages, adjoining ones as far as possible, of what is free already. Returns how many.
    [[nodiscard]] std::size_t take_single_pages(std::span<FreeBlock> pages, NodeChoice node) noexcept;

    void give(const FreeBlock& block) noexcept;
    void give(std::span<const FreeBlock> blocks) noexcept;

    /// Gives free pageblocks back to the system, `wanted` pages at most (rounded up to pageblocks). Returns how many
    /// pages; an error only if a system call failed before the first.
    [[nodiscard]] Result<PageCount> give_back(PageCount wanted);

    /// Pages in the free blocks, and blocks by their order, of all nodes.
    [[nodiscard]] PerOrder free_blocks() const;
    [[nodiscard]] PageCount free_pages() const;

private:
    struct Node {
        Node(const PageArray& pages, std::uint8_t list) noexcept : free{pages, list} {}
        mutable std::mutex mutex;  // protects `free`; a leaf
        FreeBlocks free;
    };

    PageStore(PageArray pages, std::unique_ptr<DirectMap> direct_map, unsigned nodes);

    [[nodiscard]] Node& node_of(Pfn pfn) const noexcept {
        return *nodes_[pageblock(pfn).node.load(std::memory_order_relaxed)];
    }
    /// Calls `visit(node)` for the preferred node and, unless strict, for the others, until it returns true.
    template <typename Visit>
    bool any_node(NodeChoice choice, Visit&& visit) const;

    /// Adds a block of `order` (the pageblocks it needs) to the pool and returns it, or a larger one.
    [[nodiscard]] Result<FreeBlock> grow(Order order, unsigned node);
    [[nodiscard]] std::unexpected<Error> no_room(Order order) const;
    [[nodiscard]] Result<void> grow_pageblock(Pfn pageblock, unsigned node);

    PageArray pages_;
    std::unique_ptr<DirectMap> direct_map_;
    std::unique_ptr<Pageblock[]> pageblocks_;
    std::vector<std::unique_ptr<Node>> nodes_;

    std::mutex grow_mutex_;  // protects grown_; before the nodes' locks
    Bitmap grown_;           // by pageblock
    std::atomic<std::uint64_t> grown_pages_{0};
};

}  // namespace harena
