// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/area_index.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

namespace harena {

AreaIndex::AreaIndex(std::uint64_t pages)
    : tops_{(pages + (std::uint64_t{1} << (2 * k_bits)) - 1) >> (2 * k_bits)},
      top_{std::make_unique<std::atomic<Entry>[]>(tops_)} {}

Result<void> AreaIndex::make_table(std::atomic<Entry>& entry) {
    if (entry.load(std::memory_order_relaxed) != 0) return {};  // a table: no area is here before this one
    try {
        auto made = std::make_unique<Table>();
        tables_.push_back(std::move(made));
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the index of areas");
    }
    entry.store(reinterpret_cast<Entry>(tables_.back().get()), std::memory_order_release);
    return {};
}

Result<void> AreaIndex::prepare(VmPage begin, VmPage end) {
    // Only slots that the range fills in part need tables: those of its first and its last page.
    for (const std::uint64_t page : {begin.value(), end.value() - 1}) {
        for (const unsigned level : {2U, 1U}) {
            const std::uint64_t slot_pages = std::uint64_t{1} << (level * k_bits);
            const std::uint64_t slot = page & ~(slot_pages - 1);
            if (begin.value() <= slot && slot + slot_pages <= end.value()) break;
            std::atomic<Entry>& top = top_[page >> (2 * k_bits)];
            HARENA_CHECK_OK(make_table(level == 2 ? top : (*table(top.load()))[page >> k_bits & k_mask]));
        }
    }
    return {};
}

void AreaIndex::set(VmPage begin, VmPage end, Number area) noexcept {
    constexpr std::uint64_t k_slot = std::uint64_t{1} << (2 * k_bits);
    for (std::uint64_t slot = begin.value() & ~(k_slot - 1); slot < end.value(); slot += k_slot)
        set_slot(top_[slot / k_slot], 2, slot, begin.value(), end.value(), area);
}

void AreaIndex::set_slot(std::atomic<Entry>& entry, unsigned level, std::uint64_t slot, std::uint64_t begin,
                         std::uint64_t end, Number area) noexcept {
    const Entry now = entry.load(std::memory_order_relaxed);
    if (level == 0 || !is_table(now)) {
        entry.store(entry_of(area), std::memory_order_release);
        return;
    }
    const std::uint64_t step = std::uint64_t{1} << ((level - 1) * k_bits);
    const std::uint64_t from = std::max(begin, slot);
    const std::uint64_t to = std::min(end, slot + (step << k_bits));
    for (std::uint64_t i = (from - slot) / step; slot + i * step < to; ++i)
        set_slot((*table(now))[i], level - 1, slot + i * step, begin, end, area);
}

}  // namespace harena
