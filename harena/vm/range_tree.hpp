// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "harena/base/types.hpp"

namespace harena {

/// Pages of an address space, counted from its begin.
using VmPage = StrongNumber<struct VmPageTag, std::uint64_t>;

/// The free ranges of an address space: a search tree by address in which each node knows the largest range below it,
/// so that the lowest range of a size is found in O(log n). Adjoining ranges merge.
///
/// A treap: each node has a pseudo-random priority, made of its address, that is above those of its children; so the
/// tree is as deep as a random one, whatever the order of operations. Not thread-safe. Kernel: free_vmap_area_root.
class RangeTree {
public:
    /// All of [0, pages) is free.
    explicit RangeTree(std::uint64_t pages);

    /// Takes the lowest `pages` (not 0) adjoining pages, the first a multiple of `alignment`, a power of two; or those
    /// that leave the least over, of the lowest `candidates` ranges that are large enough. Throws std::bad_alloc, and
    /// then nothing has changed.
    [[nodiscard]] std::optional<VmPage> take(std::uint64_t pages, std::uint64_t alignment = 1, unsigned candidates = 1);
    /// Takes [first, first + pages), all of which is free. Throws std::bad_alloc, and then nothing has changed.
    void take_at(VmPage first, std::uint64_t pages);
    /// Gives [first, first + pages) back, none of which is free. Needs no memory, and so throws nothing, if that is
    /// what one `take` took.
    void give(VmPage first, std::uint64_t pages);

    [[nodiscard]] std::uint64_t free_pages() const noexcept { return free_pages_; }
    [[nodiscard]] std::uint64_t largest() const noexcept { return root_ == k_none ? 0 : nodes_[root_].largest; }
    [[nodiscard]] std::size_t ranges() const noexcept { return nodes_.size() - unused_.size(); }
    /// How long the free range is that ends, or begins, there; 0 if none does.
    [[nodiscard]] std::uint64_t free_before(VmPage end) const noexcept;
    [[nodiscard]] std::uint64_t free_from(VmPage begin) const noexcept;

private:
    using Index = std::uint32_t;
    static constexpr Index k_none = ~Index{0};

    struct Node {
        std::uint64_t begin;
        std::uint64_t pages;
        std::uint64_t largest;  // of this range and all below
        Index left;
        Index right;
    };

    [[nodiscard]] std::uint64_t largest_of(Index node) const noexcept {
        return node == k_none ? 0 : nodes_[node].largest;
    }
    void update(Index node) noexcept;
    [[nodiscard]] Index make(std::uint64_t begin, std::uint64_t pages);
    /// Splits a tree in ranges below `begin` and others.
    void split(Index tree, std::uint64_t begin, Index& below, Index& others) noexcept;
    /// One tree of two, all ranges of the first of which are below those of the second.
    [[nodiscard]] Index join(Index below, Index above) noexcept;
    void insert(std::uint64_t begin, std::uint64_t pages);
    /// Removes the range that begins at `begin`; its length.
    std::uint64_t remove(std::uint64_t begin) noexcept;
    std::uint64_t remove_below(Index& link, std::uint64_t begin) noexcept;
    /// Makes nodes until `ranges` have one each.
    void reserve(std::uint64_t ranges);
    /// The last range that begins at `page` or below; none if there is none.
    [[nodiscard]] Index find(std::uint64_t page) const noexcept;

    // Invariant: there are at least taken_ + 1 nodes, since n taken ranges lie between n + 1 free ones at most.
    std::vector<Node> nodes_;
    std::vector<Index> unused_;
    std::vector<Index> path_;  // of a search; kept for its memory
    std::uint64_t taken_ = 0;
    Index root_ = k_none;
    std::uint64_t free_pages_;
};

}  // namespace harena
