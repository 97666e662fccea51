// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/free_ranges.hpp"

#include <algorithm>
#include <bit>

#include "harena/base/assert.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

namespace {

unsigned log2_rounded_up(std::uint64_t value) noexcept {
    return value < 2 ? 0U : static_cast<unsigned>(std::bit_width(value - 1));
}
unsigned log2_rounded_down(std::uint64_t value) noexcept {
    return static_cast<unsigned>(std::bit_width(value | 1)) - 1;
}

}  // namespace

FreeRanges::FreeRanges(PageCount pages)
    : capacity_{pages.value()},
      capacity_log2_{log2_rounded_up(pages.value())},
      begins_{pages.value()},
      lasts_{pages.value()},
      by_size_{(capacity_log2_ + std::uint64_t{1}) << capacity_log2_} {}

void FreeRanges::clear() noexcept {
    begins_.clear_all();
    lasts_.clear_all();
    by_size_.clear_all();
    free_pages_ = 0;
    ranges_ = 0;
}

std::optional<PageRange> FreeRanges::smallest_of_at_least(PageCount count) const noexcept {
    if (count.value() > capacity_) return std::nullopt;
    const std::size_t found = by_size_.find_next_set(position(std::max<std::uint64_t>(1, count.value()), 0));
    if (found == by_size_.size()) return std::nullopt;
    return at_position(found);
}

std::optional<PageRange> FreeRanges::aligned(PageCount count, PageCount alignment) const noexcept {
    precondition(count > PageCount{0} && std::has_single_bit(alignment.value()),
                 "an alignment is a power of two, and something is to be aligned");
    if (count.value() > capacity_) return std::nullopt;
    // Of larger ones, page 0 is the only multiple inside too.
    const std::uint64_t multiple = std::min(alignment.value(), std::bit_ceil(capacity_));
    const auto aligned_part = [&](PageRange range) {
        return PageRange::of(PageIndex{align_up(range.begin.value(), multiple)}, count);
    };
    const std::uint64_t sufficient = count.value() + multiple - 1;
    if (const auto found = smallest_of_at_least(PageCount{sufficient})) return aligned_part(*found);
    std::size_t at = by_size_.find_next_set(position(count.value(), 0));
    for (int look = 0; look < k_aligned_looks && at < by_size_.size(); ++look) {
        const PageRange range = at_position(at);
        if (const PageRange part = aligned_part(range); part.end <= range.end) return part;
        at = by_size_.find_next_set(at + 1);
    }
    return std::nullopt;
}

bool FreeRanges::contains(PageRange range) const noexcept {
    if (range.empty()) return true;
    const auto holding = range_holding(range.begin);
    return holding && range.end <= holding->end;
}

bool FreeRanges::contains_any(PageRange range) const noexcept {
    if (range.empty()) return false;
    // The first range that ends in or after `range`.
    const std::size_t last = lasts_.find_next_set(range.begin.value());
    return last < capacity_ && begins_.find_previous_set(last) < range.end.value();
}

std::optional<PageRange> FreeRanges::range_holding(PageIndex page) const noexcept {
    if (page.value() >= capacity_) return std::nullopt;
    const std::size_t begin = begins_.find_previous_set(page.value());
    if (begin == capacity_) return std::nullopt;
    const PageRange range = beginning_at(begin);
    if (range.end <= page) return std::nullopt;
    return range;
}

void FreeRanges::take(PageRange range) noexcept {
    precondition(is_inside(range) && contains(range), "only pages of one free range can be taken");
    if (range.empty()) return;
    const PageRange whole = beginning_at(begins_.find_previous_set(range.begin.value()));
    erase(whole);
    insert({whole.begin, range.begin});
    insert({range.end, whole.end});
}

void FreeRanges::take_any(PageRange range) noexcept {
    precondition(is_inside(range), "pages that are taken lie inside");
    if (range.empty()) return;
    for (PageIndex page = range.begin; page < range.end;) {
        const std::size_t last = lasts_.find_next_set(page.value());
        if (last == capacity_) return;
        const PageIndex begin = std::max(PageIndex{begins_.find_previous_set(last)}, range.begin);
        const PageIndex end = std::min(PageIndex{last + 1}, range.end);
        if (begin >= end) return;
        take({begin, end});
        page = end;
    }
}

void FreeRanges::give(PageRange range) noexcept {
    precondition(is_inside(range) && !contains_any(range), "a page was given that is free already");
    if (range.empty()) return;
    const std::uint64_t begin = range.begin.value();
    const std::uint64_t end = range.end.value();
    if (begin > 0 && lasts_.test(begin - 1)) {
        const PageRange before{PageIndex{begins_.find_previous_set(begin - 1)}, range.begin};
        erase(before);
        range.begin = before.begin;
    }
    if (end < capacity_ && begins_.test(end)) {
        const PageRange after = beginning_at(end);
        erase(after);
        range.end = after.end;
    }
    insert(range);
}

void FreeRanges::give_any(PageRange range) noexcept {
    take_any(range);
    give(range);
}

PageCount FreeRanges::largest() const noexcept {
    const std::size_t found = by_size_.find_previous_set(by_size_.size());
    return found == by_size_.size() ? PageCount{0} : at_position(found).count();
}

void FreeRanges::insert(PageRange range) noexcept {
    if (range.empty()) return;
    begins_.set(range.begin.value());
    lasts_.set(range.end.value() - 1);
    by_size_.set(position(range.count().value(), range.begin.value()));
    free_pages_ += range.count().value();
    ++ranges_;
}

void FreeRanges::erase(PageRange range) noexcept {
    begins_.clear(range.begin.value());
    lasts_.clear(range.end.value() - 1);
    by_size_.clear(position(range.count().value(), range.begin.value()));
    free_pages_ -= range.count().value();
    --ranges_;
}

PageRange FreeRanges::beginning_at(std::uint64_t begin) const noexcept {
    return {PageIndex{begin}, PageIndex{lasts_.find_next_set(begin) + 1}};
}

std::size_t FreeRanges::position(std::uint64_t size, std::uint64_t begin) const noexcept {
    const unsigned k = log2_rounded_down(size);
    const std::uint64_t of_size = (size - (std::uint64_t{1} << k)) << (capacity_log2_ - k);
    return (std::uint64_t{k} << capacity_log2_) + of_size + (begin >> k);
}

PageRange FreeRanges::at_position(std::size_t position) const noexcept {
    const auto k = static_cast<unsigned>(position >> capacity_log2_);
    const std::uint64_t block = position & ((std::uint64_t{1} << (capacity_log2_ - k)) - 1);
    // The range begins in this block of 2^k pages and has as many, so that it holds the block's last page.
    return beginning_at(begins_.find_previous_set(((block + 1) << k) - 1));
}

bool FreeRanges::is_inside(PageRange range) const noexcept {
    return range.begin <= range.end && range.end.value() <= capacity_;
}

}  // namespace harena
