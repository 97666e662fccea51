// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "harena/arena/free_ranges.hpp"
#include "harena/arena/presence.hpp"
#include "harena/base/hierarchical_bitmap.hpp"

namespace harena {

/// Which pages of an arena this process takes for free, and which of these for recycled ones. Other processes, touches
/// of the host, and other threads by the pages' words make it wrong at any time: what is found here is claimed by its
/// words, and what then proves wrong is corrected.
///
/// Not thread-safe: the owner holds its lock. Touches no arena page; makes system calls only for pages that the dead
/// left.
class PageHints {
public:
    /// `fresh`: all pages are free and without memory. `presence` must outlive this object. Throws std::bad_alloc.
    PageHints(Presence& presence, bool fresh);

    [[nodiscard]] const FreeRanges& free() const noexcept { return free_; }
    /// Recycled pages, as far as is known.
    [[nodiscard]] PageCount kept() const noexcept { return PageCount{kept_pages_}; }
    /// A run of recycled pages, another one each time. There must be one.
    [[nodiscard]] PageRange next_kept(PageCount most) noexcept;
    /// The next run begins here, if these are recycled.
    void look_from(PageIndex page) noexcept { kept_from_ = page.value(); }

    /// These are free, without memory for all that is known.
    void give(PageRange free) noexcept { free_.give_any(free); }
    /// These are free, and have memory.
    void keep(PageRange recycled) noexcept;
    /// These are not free.
    void forget(PageRange taken) noexcept;
    /// `blocker` of the pages that were wanted was not free: it, and those behind it that are not free either.
    void skip(PageIndex blocker, PageRange wanted) noexcept;

    /// Takes in what touches have changed, and reads all words if the hints are known to be stale.
    void refresh() noexcept;
    /// Reads all words, and puts in order what the dead left.
    void rebuild() noexcept;
    /// Whether free pages may be missing: a rebuild may find more.
    [[nodiscard]] bool may_lack() const noexcept { return may_lack_; }
    void set_may_lack() noexcept { may_lack_ = true; }

private:
    Presence& presence_;
    FreeRanges free_;
    // Invariant: `kept_pages_` bits are set, all of pages in `free_`.
    HierarchicalBitmap kept_;
    std::uint64_t kept_pages_ = 0;
    std::size_t kept_from_ = 0;  // where the search for one begins
    bool stale_;
    bool may_lack_ = false;
};

}  // namespace harena
