// SPDX-License-Identifier: Apache-2.0
// Sparse areas: pages come and go inside of them.
#include <algorithm>
#include <cerrno>

#include "harena/base/os/system_info.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {

Result<VmSpace::Pages> VmSpace::check_range(const VmArea* area, const void* start, const void* end) const {
    if (!owns(area) || area->kind_ != VmKind::sparse || area->guard_pages_ == 0)
        return fail(EINVAL, "not a sparse area with a guard");
    const auto from = reinterpret_cast<std::uint64_t>(start);
    const auto to = reinterpret_cast<std::uint64_t>(end);
    if (!is_aligned(from, k_page_size) || !is_aligned(to, k_page_size))
        return fail(EINVAL, "from {} to {}: not addresses of pages", fmt::ptr(start), fmt::ptr(end));
    // An end before the start is a very long range, as in Linux.
    const std::uint64_t count = (to - from) / k_page_size;
    const std::uint64_t machine = os::memory_pages();
    if (count > machine) return fail(E2BIG, "{} pages: the machine has {}", count, machine);
    const auto begin = reinterpret_cast<std::uint64_t>(area->begin_);
    if (from < begin || to > begin + area->bytes())
        return fail(ERANGE, "from {} to {}: the area is from {} to {}", fmt::ptr(start), fmt::ptr(end),
                    fmt::ptr(area->begin_), fmt::ptr(area->begin_ + area->bytes()));
    return Pages{.first = (from - begin) / k_page_size, .count = count};
}

Result<void> VmSpace::map_pages(VmArea* area, const void* start, const void* end, std::span<Page* const> pages) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    HARENA_TRY(const Pages range, check_range(area, start, end));
    if (pages.size() != range.count) return fail(EINVAL, "{} pages for a range of {}", pages.size(), range.count);
    const auto table = std::span{area->table_}.subspan(range.first, range.count);
    if (const auto taken = std::ranges::find_if(table, [](std::uint32_t entry) { return entry != 0; });
        taken != table.end())
        return fail(EBUSY, "page {} of the area is mapped already",
                    range.first + static_cast<std::uint64_t>(taken - table.begin()));
    HARENA_TRY(const bool unmapped, check_pages(pages, ENOMEM));
    if (pages.empty()) return {};
    const std::uint64_t before = edges_of(area->table_, range.first, range.count);
    std::ranges::transform(pages, table.begin(), [&](const Page* page) { return pool_->pfn(page).value() + 1; });
    const std::uint64_t after = edges_of(area->table_, range.first, range.count);
    const std::uint64_t more = after - std::min(before, after);
    auto mapped = add_edges(*area, more);
    if (mapped) {
        mapped = map_table(*area, range.first, range.count, VmProtection::read_write, false);
        remove_edges(*area, mapped ? before - std::min(before, after) : more);
    }
    if (!mapped) std::ranges::fill(table, 0U);
    if (mapped || area->stale_) area->has_unmapped_ |= unmapped;
    return mapped;
}

Result<void> VmSpace::unmap_pages(VmArea* area, const void* start, const void* end) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    HARENA_TRY(const Pages range, check_range(area, start, end));
    const auto table = std::span{area->table_}.subspan(range.first, range.count);
    const auto is_mapped = [](std::uint32_t entry) { return entry != 0; };
    const auto mapped = static_cast<std::uint64_t>(std::ranges::count_if(table, is_mapped));
    if (table.empty() || (mapped == 0 && !area->stale_)) return {};
    const std::uint64_t last = range.first + range.count;
    const std::uint64_t before = edges_of(area->table_, range.first, range.count);
    const std::uint64_t after = (range.first > 0 && is_mapped(area->table_[range.first - 1]) ? 1U : 0U) +
                                (last < area->table_.size() && is_mapped(area->table_[last]) ? 1U : 0U);
    const std::uint64_t more = after - std::min(before, after);
    HARENA_CHECK_OK(add_edges(*area, more));
    auto gone = map_nothing(page_of(start), range.count);
    remove_edges(*area, gone ? before - std::min(before, after) : more);
    if (!gone) return gone;
    std::ranges::fill(table, 0U);
    (*records_)[area->number_].pages.fetch_sub(mapped, std::memory_order_relaxed);
    return {};
}

}  // namespace harena
