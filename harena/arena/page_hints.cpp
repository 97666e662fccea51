// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/page_hints.hpp"

#include <algorithm>

namespace harena {

namespace {

constexpr PageCount k_one{1};

}  // namespace

PageHints::PageHints(Presence& presence, bool fresh)
    : presence_{presence}, free_{presence.pages()}, kept_{presence.pages().value()}, stale_{!fresh} {
    if (fresh) free_.give(PageRange::of(PageIndex{}, presence.pages()));
}

PageRange PageHints::next_kept(PageCount most) noexcept {
    std::size_t begin = kept_.find_next_set(kept_from_);
    if (begin == kept_.size()) begin = kept_.find_next_set(0);
    std::size_t end = begin;
    while (end < kept_.size() && end - begin < most.value() && kept_.test(end)) ++end;
    kept_from_ = end;
    return {PageIndex{begin}, PageIndex{end}};
}

// Free pages with memory.
void PageHints::keep(PageRange recycled) noexcept {
    free_.give_any(recycled);
    for (std::size_t page = recycled.begin.value(); page < recycled.end.value(); ++page) {
        if (kept_.test(page)) continue;
        kept_.set(page);
        ++kept_pages_;
    }
}

void PageHints::forget(PageRange taken) noexcept {
    free_.take_any(taken);
    if (kept_pages_ == 0) return;
    // A search for each page that is kept is dearer than a look at each page, where the range is short.
    constexpr PageCount k_short{256};
    const bool looks = taken.count() <= k_short;
    for (std::size_t page = taken.begin.value(); page < taken.end.value(); ++page) {
        if (!looks) page = kept_.find_next_set(page);
        if (page >= taken.end.value()) return;
        if (!kept_.test(page)) continue;
        kept_.clear(page);
        --kept_pages_;
    }
}

// `blocker` is not free, and mostly the pages behind it are not, either.
void PageHints::skip(PageIndex blocker, PageRange wanted) noexcept {
    PageIndex end = blocker;
    for (; end < wanted.end; end = end + k_one) {
        const ArenaWord word = presence_.words().load(end);
        if (word.free() && end != blocker) break;
        may_lack_ = may_lack_ || word.moving() || word.free();
    }
    forget({blocker, end});
}

void PageHints::refresh() noexcept {
    if (presence_.take_hints_stale()) stale_ = true;
    if (stale_) rebuild();
    presence_.drain_touched([this](PageIndex page) {
        // A page whose touch failed is free, and so is one that was freed since.
        if (!presence_.words().load(page).free()) forget(PageRange::one(page));
    });
}

void PageHints::rebuild() noexcept {
    free_.clear();
    kept_.clear_all();
    kept_pages_ = 0;
    ArenaWords& words = presence_.words();
    PageIndex begin{0};  // of a run of free pages
    for (PageIndex page{0};; page = page + k_one) {
        PageState state = PageState::used;
        if (page < PageIndex{} + presence_.pages()) {
            ArenaWord word = words.load(page);
            if (word.moving() && presence_.recover(page, word)) word = words.load(page);
            state = word.state();
            if (word.moving()) may_lack_ = true;
        }
        if (state == PageState::absent) continue;
        if (state == PageState::recycled) {
            kept_.set(page.value());
            ++kept_pages_;
            continue;
        }
        free_.give({begin, page});
        begin = page + k_one;
        if (page >= PageIndex{} + presence_.pages()) break;
    }
    stale_ = false;
}

}  // namespace harena
