// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/free_ranges.hpp"

#include <iterator>

#include "harena/base/assert.hpp"

namespace harena {

void FreeRanges::clear() noexcept {
    by_begin_.clear();
    by_size_.clear();
}

std::optional<PageRange> FreeRanges::smallest_of_at_least(PageCount count) const {
    const auto found = by_size_.lower_bound({count.value(), 0});
    if (found == by_size_.end()) return std::nullopt;
    return PageRange::of(PageIndex{found->second}, PageCount{found->first});
}

bool FreeRanges::contains(PageRange range) const noexcept {
    const auto found = holding(range.begin.value());
    return found != by_begin_.end() && range.end.value() <= found->second;
}

void FreeRanges::take(PageRange range) {
    precondition(contains(range), "only pages of one free range can be taken");
    const auto [begin, end] = *holding(range.begin.value());
    erase(by_begin_.find(begin));
    if (begin < range.begin.value()) insert(begin, range.begin.value());
    if (range.end.value() < end) insert(range.end.value(), end);
}

void FreeRanges::give(PageRange range) {
    if (range.empty()) return;
    std::uint64_t begin = range.begin.value();
    std::uint64_t end = range.end.value();
    const auto after = by_begin_.lower_bound(begin);
    precondition(after == by_begin_.end() || end <= after->first, "a page was given that is free already");
    if (after != by_begin_.begin()) {
        const auto before = std::prev(after);
        precondition(before->second <= begin, "a page was given that is free already");
        if (before->second == begin) {
            begin = before->first;
            erase(before);
        }
    }
    if (after != by_begin_.end() && after->first == end) {
        end = after->second;
        erase(after);
    }
    insert(begin, end);
}

void FreeRanges::insert(std::uint64_t begin, std::uint64_t end) {
    by_begin_.emplace(begin, end);
    by_size_.emplace(end - begin, begin);
}

void FreeRanges::erase(ByBegin::iterator range) {
    by_size_.erase({range->second - range->first, range->first});
    by_begin_.erase(range);
}

FreeRanges::ByBegin::const_iterator FreeRanges::holding(std::uint64_t page) const noexcept {
    auto found = by_begin_.upper_bound(page);
    if (found == by_begin_.begin()) return by_begin_.end();
    --found;
    return page < found->second ? found : by_begin_.end();
}

}  // namespace harena
