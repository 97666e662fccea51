// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/vm/range_tree.hpp"

namespace harena {

/// Which area a page of the space belongs to: a table of three levels like that of a processor, with area numbers for
/// leaves. A range that fills a whole slot of a higher level takes one entry there, as a large page does.
///
/// `find` is lock-free: tables are never freed while the index lives. Writers take turns, which the caller sees to.
class AreaIndex {
public:
    using Number = std::uint32_t;
    static constexpr Number k_none = 0;

    explicit AreaIndex(std::uint64_t pages);
    AreaIndex(const AreaIndex&) = delete;
    AreaIndex& operator=(const AreaIndex&) = delete;
    ~AreaIndex() = default;

    /// The number of the area that `page` is in; `k_none` if it is in none.
    [[nodiscard]] Number find(VmPage page) const noexcept {
        const std::uint64_t top = page.value() >> (2 * k_bits);
        if (top >= tops_) return k_none;
        const Entry top_entry = top_[top].load(std::memory_order_acquire);
        if (!is_table(top_entry)) return number(top_entry);
        const Entry middle = (*table(top_entry))[page.value() >> k_bits & k_mask].load(std::memory_order_acquire);
        if (!is_table(middle)) return number(middle);
        return number((*table(middle))[page.value() & k_mask].load(std::memory_order_acquire));
    }

    /// Makes the tables that an area [begin, end) needs, so that `set` cannot fail. Errors: ENOMEM.
    [[nodiscard]] Result<void> prepare(VmPage begin, VmPage end);
    /// Pages [begin, end) belong to `area` from now on, or to none.
    void set(VmPage begin, VmPage end, Number area) noexcept;

private:
    static constexpr unsigned k_bits = 9;
    static constexpr std::uint64_t k_mask = (1U << k_bits) - 1;
    // An area's number times 2 plus 1, or the address of a table, which is even; 0: nothing.
    using Entry = std::uint64_t;
    using Table = std::array<std::atomic<Entry>, 1U << k_bits>;

    static bool is_table(Entry entry) noexcept { return entry != 0 && (entry & 1) == 0; }
    static Number number(Entry entry) noexcept { return static_cast<Number>(entry >> 1); }
    static Table* table(Entry entry) noexcept { return reinterpret_cast<Table*>(entry); }
    static Entry entry_of(Number area) noexcept { return area == k_none ? 0 : std::uint64_t{area} << 1 | 1; }

    [[nodiscard]] Result<void> make_table(std::atomic<Entry>& entry);
    /// Sets the part of [begin, end) that is in the slot of `entry`, which has 2^(k_bits * level) pages from `slot` on.
    static void set_slot(std::atomic<Entry>& entry, unsigned level, std::uint64_t slot, std::uint64_t begin,
                         std::uint64_t end, Number area) noexcept;

    std::uint64_t tops_;
    std::unique_ptr<std::atomic<Entry>[]> top_;
    std::vector<std::unique_ptr<Table>> tables_;
};

}  // namespace harena
