// SPDX-License-Identifier: Apache-2.0
//
// What `PageAllocator` does with whole blocks of 2 MiB.
#include <algorithm>
#include <cerrno>
#include <new>
#include <vector>

#include "harena/arena/page_allocator.hpp"

namespace harena {

namespace {

constexpr PageCount k_one{1};

}  // namespace

// Where memory comes in blocks, the absent pages of the blocks that `claimed` touches are claimed with it.
PageAllocator::Claimed PageAllocator::widen(PageRange claimed) noexcept {
    Claimed all{.wanted = claimed, .whole = claimed};
    if (!options_.whole_blocks) return all;
    const PageIndex first{align_down(claimed.begin.value(), k_huge_page_pages.value())};
    const PageIndex last{std::min(align_up(claimed.end.value(), k_huge_page_pages.value()), presence_.pages().value())};
    const auto claim_absent = [this](PageIndex page) {
        PageIndex blocker;
        return presence_.words().load(page).state() == PageState::absent &&
               presence_.claim(PageRange::one(page), blocker);
    };
    while (all.whole.end < last && claim_absent(all.whole.end)) all.whole.end = all.whole.end + k_one;
    while (first < all.whole.begin && claim_absent(PageIndex{all.whole.begin.value() - 1}))
        all.whole.begin = PageIndex{all.whole.begin.value() - 1};
    return all;
}

PageAllocator::Outcome<void> PageAllocator::promote(PageRange blocks, PageCharges::Id payer) {
    ArenaWords& words = presence_.words();
    std::vector<PageRange> claimed;  // runs
    try {
        claimed.reserve(blocks.count().value() / 2 + 1);  // as many as there can be: below, nothing may fail halfway
    } catch (const std::bad_alloc&) {
        return std::unexpected{ENOMEM};
    }
    std::uint64_t count = 0;
    const auto undo = [&] {
        for (const PageRange run : claimed) undo_claim({.wanted = run, .whole = run});
    };
    for (PageIndex page = blocks.begin; page < blocks.end;) {
        PageIndex blocker;
        const ArenaWord word = words.load(page);
        if (word.state() == PageState::used) {
            page = page + k_one;
        } else if (word.free() && presence_.claim(PageRange::one(page), blocker)) {
            if (!claimed.empty() && claimed.back().end == page)
                claimed.back().end = page + k_one;
            else
                claimed.push_back(PageRange::one(page));
            ++count;
            page = page + k_one;
        } else if (!words.load(page).moving() || !wait_for(page)) {
            if (words.load(page).free()) continue;
            undo();
            return std::unexpected{EBUSY};
        }
    }
    {
        const std::lock_guard lock{mutex_};
        for (const PageRange run : claimed) hints_.forget(run);
    }
    if (!charge(payer, PageCount{count})) {
        undo();
        return std::unexpected{EDQUOT};
    }
    for (const PageRange run : claimed) {
        if (presence_.populate(run)) continue;
        charges_.uncharge(payer, PageCount{count});
        undo();
        return std::unexpected{ENOMEM};
    }
    if (const auto collapsed = presence_.collapse(blocks); !collapsed) {
        charges_.uncharge(payer, PageCount{count});
        undo();
        return std::unexpected{collapsed.error().code};
    }
    for (const PageRange run : claimed) {
        charges_.assign(run, payer);
        presence_.finish(run, PageState::used);
    }
    return {};
}

// Gives back the memory of blocks that are wholly free.
void PageAllocator::release_free_blocks(PageRange around) {
    ArenaWords& words = presence_.words();
    const PageIndex last{std::min(align_up(around.end.value(), k_huge_page_pages.value()), presence_.pages().value())};
    for (PageIndex block{align_down(around.begin.value(), k_huge_page_pages.value())}; block < last;
         block = block + k_huge_page_pages) {
        {
            const std::lock_guard lock{mutex_};
            if (room() > PageCount{0}) return;
        }
        const PageRange pages{block, std::min(block + k_huge_page_pages, last)};
        PageIndex end = pages.begin;
        for (; end < pages.end; end = end + k_one) {
            ArenaWord word = words.load(end);
            if (word.state() != PageState::recycled || !words.try_change(end, word, presence_.my(PageState::freeing)))
                break;
        }
        if (end == pages.end) {
            {
                const std::lock_guard lock{mutex_};
                hints_.forget(pages);
            }
            (void)give_memory_back(pages, PageState::recycled);
        } else {
            presence_.finish({pages.begin, end}, PageState::recycled);
        }
    }
}

}  // namespace harena
