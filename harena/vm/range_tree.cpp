// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/range_tree.hpp"

#include <algorithm>

#include "harena/base/page_math.hpp"

namespace harena {

namespace {

/// A number that looks random, of an address: the finaliser of SplitMix64.
std::uint64_t priority(std::uint64_t begin) noexcept {
    begin = (begin ^ (begin >> 30)) * 0xbf58'476d'1ce4'e5b9;
    begin = (begin ^ (begin >> 27)) * 0x94d0'49bb'1331'11eb;
    return begin ^ (begin >> 31);
}

/// The first multiple of `alignment` in a range from which `pages` are left, if there is one.
std::optional<std::uint64_t> place(std::uint64_t begin, std::uint64_t available, std::uint64_t pages,
                                   std::uint64_t alignment) noexcept {
    const std::uint64_t first = align_up(begin, alignment);
    if (first - begin > available || available - (first - begin) < pages) return std::nullopt;
    return first;
}

}  // namespace

RangeTree::RangeTree(std::uint64_t pages) : free_pages_{0} { give(VmPage{0}, pages); }

std::optional<VmPage> RangeTree::take(std::uint64_t pages, std::uint64_t alignment, unsigned candidates) {
    // Down to the lowest range that is large enough. Where the alignment makes it too small, or others are to be
    // compared with it, on to the next one: the path's right branches are still to be looked at.
    reserve(taken_ + 2);
    path_.clear();
    std::optional<std::uint64_t> best;
    std::uint64_t best_begin = 0;
    std::uint64_t best_pages = ~std::uint64_t{0};
    for (Index node = root_; candidates > 0;) {
        while (node != k_none && nodes_[node].largest >= pages) {
            path_.push_back(node);
            node = nodes_[node].left;
        }
        if (path_.empty()) break;
        const Node& range = nodes_[path_.back()];
        path_.pop_back();
        node = range.right;
        const auto first = place(range.begin, range.pages, pages, alignment);
        if (!first) continue;
        --candidates;
        if (range.pages >= best_pages) continue;
        best = first;
        best_begin = range.begin;
        best_pages = range.pages;
    }
    if (!best) return std::nullopt;
    free_pages_ -= pages;
    ++taken_;
    const std::uint64_t end = best_begin + best_pages;
    remove(best_begin);
    if (*best > best_begin) insert(best_begin, *best - best_begin);
    if (*best + pages < end) insert(*best + pages, end - *best - pages);
    return VmPage{*best};
}

void RangeTree::take_at(VmPage first, std::uint64_t pages) {
    reserve(taken_ + 2);
    const Node range = nodes_[find(first.value())];
    free_pages_ -= pages;
    ++taken_;
    remove(range.begin);
    const std::uint64_t after = first.value() + pages;
    if (first.value() > range.begin) insert(range.begin, first.value() - range.begin);
    if (after < range.begin + range.pages) insert(after, range.begin + range.pages - after);
}

void RangeTree::give(VmPage first, std::uint64_t pages) {
    free_pages_ += pages;
    std::uint64_t begin = first.value();
    std::uint64_t end = begin + pages;
    if (const std::uint64_t before = free_before(first); before != 0) begin -= remove(begin - before);
    if (free_from(VmPage{end}) != 0) end += remove(end);
    insert(begin, end - begin);
    if (taken_ > 0) --taken_;
}

RangeTree::Index RangeTree::find(std::uint64_t page) const noexcept {
    Index last = k_none;
    for (Index node = root_; node != k_none;) {
        if (nodes_[node].begin > page) {
            node = nodes_[node].left;
        } else {
            last = node;
            node = nodes_[node].right;
        }
    }
    return last;
}

std::uint64_t RangeTree::free_before(VmPage end) const noexcept {
    const Index node = end.value() == 0 ? k_none : find(end.value() - 1);
    return node != k_none && nodes_[node].begin + nodes_[node].pages == end.value() ? nodes_[node].pages : 0;
}

std::uint64_t RangeTree::free_from(VmPage begin) const noexcept {
    const Index node = find(begin.value());
    return node != k_none && nodes_[node].begin == begin.value() ? nodes_[node].pages : 0;
}

void RangeTree::update(Index node) noexcept {
    Node& range = nodes_[node];
    range.largest = std::max({range.pages, largest_of(range.left), largest_of(range.right)});
}

void RangeTree::reserve(std::uint64_t ranges) {
    while (nodes_.size() < ranges) {
        nodes_.push_back({});
        try {
            unused_.reserve(nodes_.capacity());  // so that `remove` needs no memory
        } catch (...) {
            nodes_.pop_back();
            throw;
        }
        unused_.push_back(static_cast<Index>(nodes_.size() - 1));
    }
}

RangeTree::Index RangeTree::make(std::uint64_t begin, std::uint64_t pages) {
    if (unused_.empty()) reserve(nodes_.size() + 1);
    const Index index = unused_.back();
    unused_.pop_back();
    nodes_[index] = {.begin = begin, .pages = pages, .largest = pages, .left = k_none, .right = k_none};
    return index;
}

void RangeTree::split(Index tree, std::uint64_t begin, Index& below, Index& others) noexcept {
    if (tree == k_none) {
        below = others = k_none;
        return;
    }
    if (nodes_[tree].begin < begin) {
        below = tree;
        split(nodes_[tree].right, begin, nodes_[tree].right, others);
    } else {
        others = tree;
        split(nodes_[tree].left, begin, below, nodes_[tree].left);
    }
    update(tree);
}

RangeTree::Index RangeTree::join(Index below, Index above) noexcept {
    if (below == k_none) return above;
    if (above == k_none) return below;
    if (priority(nodes_[below].begin) > priority(nodes_[above].begin)) {
        nodes_[below].right = join(nodes_[below].right, above);
        update(below);
        return below;
    }
    nodes_[above].left = join(below, nodes_[above].left);
    update(above);
    return above;
}

void RangeTree::insert(std::uint64_t begin, std::uint64_t pages) {
    const Index node = make(begin, pages);
    // Down to where its priority puts it; all above learn of its size.
    Index* link = &root_;
    while (*link != k_none && priority(nodes_[*link].begin) >= priority(begin)) {
        Node& above = nodes_[*link];
        above.largest = std::max(above.largest, pages);
        link = begin < above.begin ? &above.left : &above.right;
    }
    split(*link, begin, nodes_[node].left, nodes_[node].right);
    update(node);
    *link = node;
}

std::uint64_t RangeTree::remove(std::uint64_t begin) noexcept { return remove_below(root_, begin); }

std::uint64_t RangeTree::remove_below(Index& link, std::uint64_t begin) noexcept {
    const Index node = link;
    Node& range = nodes_[node];
    if (range.begin == begin) {
        link = join(range.left, range.right);
        unused_.push_back(node);
        return range.pages;
    }
    const std::uint64_t pages = remove_below(begin < range.begin ? range.left : range.right, begin);
    update(node);
    return pages;
}

}  // namespace harena
