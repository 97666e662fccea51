// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/page_allocator.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/arena/page_clearing.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/signal.hpp"

namespace harena {

namespace {

constexpr PageCount k_one{1};
/// A refill's pages: so many at first, twice as many each time, and a block of 2 MiB after so many refills.
constexpr std::uint64_t k_first_refill = 8;
constexpr unsigned k_refills_before_block = 8;
/// Of the pages that may be kept, half may be in magazines.
constexpr std::uint64_t k_magazine_share = 2;
/// How long a call waits for whoever is at work on a page that it must have.
constexpr std::uint64_t k_patience_ns = 500'000'000;

}  // namespace

constinit thread_local PageAllocator::Used PageAllocator::last_used_;

PageAllocator::PageAllocator(Presence& presence, PageCharges& charges, const Options& options)
    : presence_{presence},
      charges_{charges},
      options_{options},
      prepared_{prepare().has_value()},
      recycle_{options.recycle.value()},
      hints_{presence, options.fresh} {
    see_if_magazines_fit();
}

PageAllocator::~PageAllocator() { end(); }

// Magazines.

PageMagazine* PageAllocator::find_magazine() noexcept {
    auto* mine = static_cast<PageMagazine*>(part_of_this_thread());
    if (mine == nullptr) {
        try {
            auto made = std::make_unique<PageMagazine>();
            PageMagazine* const magazine = made.get();
            set_part_of_this_thread(magazine, [&] {
                const std::lock_guard lock{mutex_};
                const std::uint64_t pages = (magazines_.size() + 1) * PageMagazine::k_capacity;
                if (pages > recycle_.load(std::memory_order_relaxed) / k_magazine_share) throw std::bad_alloc{};
                magazines_.push_back(std::move(made));
                hints_.set_may_lack();
            });
            mine = magazine;
            // What it may hold is room for less elsewhere.
            shrink(PageCount{recycle_.load(std::memory_order_relaxed)});
        } catch (const std::bad_alloc&) {
            return nullptr;  // no memory, or no room for another one
        }
    }
    last_used_ = {.id = id(), .magazine = mine};
    return mine;
}

void PageAllocator::retire(void* part) noexcept {
    last_used_ = {};
    auto* const magazine = static_cast<PageMagazine*>(part);
    spill(*magazine, magazine->count());
    const std::lock_guard lock{mutex_};
    std::erase_if(magazines_, [magazine](const auto& each) { return each.get() == magazine; });
    see_if_magazines_fit();
}

void PageAllocator::spill(PageMagazine& magazine, std::size_t count) noexcept {
    const std::lock_guard lock{mutex_};
    magazine.spill(count, [this](PageIndex page) {
        // It may have been taken from under the magazine.
        if (presence_.words().load(page).state() == PageState::recycled) hints_.keep(PageRange::one(page));
    });
}

bool PageAllocator::refill_with_kept(PageMagazine& magazine) noexcept {
    const std::lock_guard lock{mutex_};
    if (hints_.kept() == PageCount{0}) return false;
    const PageRange run = hints_.next_kept(PageCount{PageMagazine::k_capacity});
    hints_.forget(run);
    // The lowest comes out first.
    for (std::uint64_t page = run.end.value(); page > run.begin.value(); --page)
        magazine.push({.page = PageIndex{page - 1}, .warm = false});
    return true;
}

// Free pages for a magazine, claimed and no longer in the hints; none if there are none to be seen.
PageRange PageAllocator::claim_for_refill(const PageMagazine& magazine) noexcept {
    const std::lock_guard lock{mutex_};
    hints_.refresh();
    const std::uint64_t count =
        std::min<std::uint64_t>(k_first_refill << std::min(magazine.refills, 3U), PageMagazine::k_capacity);
    bool block = options_.huge_refills && magazine.refills >= k_refills_before_block && room() >= k_huge_page_pages &&
                 !presence_.shared() &&
                 presence_.blocks_within({PageIndex{}, PageIndex{} + k_huge_page_pages}).count() == k_huge_page_pages;
    for (;;) {
        std::optional<PageRange> found;
        if (block) found = hints_.free().aligned(k_huge_page_pages, k_huge_page_pages);
        block = block && found;
        if (!found) found = hints_.free().smallest_of_at_least(k_one);
        if (!found) return {};
        const PageRange range =
            PageRange::of(found->begin, block ? k_huge_page_pages : std::min(found->count(), PageCount{count}));
        PageIndex blocker;
        if (presence_.claim(range, blocker)) {
            hints_.forget(range);
            return range;
        }
        hints_.skip(blocker, range);
    }
}

bool PageAllocator::refill(PageMagazine& magazine) {
    if (refill_with_kept(magazine)) return true;
    const PageRange claimed = claim_for_refill(magazine);
    if (claimed.empty()) return false;
    if (!presence_.populate(claimed)) {
        undo_claim({.wanted = claimed, .whole = claimed});
        return false;
    }
    ++magazine.refills;
    presence_.finish_free(claimed);
    const PageIndex middle = std::min(claimed.end, claimed.begin + PageCount{PageMagazine::k_capacity});
    for (std::uint64_t page = middle.value(); page > claimed.begin.value(); --page)
        magazine.push({.page = PageIndex{page - 1}, .warm = claimed.count() <= PageCount{k_first_refill}});
    if (middle == claimed.end) return true;
    const std::lock_guard lock{mutex_};
    hints_.keep({middle, claimed.end});
    hints_.look_from(middle);
    return true;
}

// Allocation.

bool PageAllocator::charge(PageCharges::Id payer, PageCount count) noexcept {
    if (charges_.charge(payer, count)) [[likely]]
        return true;
    return presence_.shared() && charges_.settle(presence_.words(), presence_.me()) && charges_.charge(payer, count);
}

PageAllocator::Outcome<PageIndex> PageAllocator::allocate(std::optional<PageIndex> at, PageCount count,
                                                          PageCharges::Id payer, const std::atomic<bool>* cancel) {
    if (!charge(payer, count)) return std::unexpected{EDQUOT};
    PageMagazine* const mine = count == k_one && !at ? magazine() : nullptr;
    const auto allocated =
        mine != nullptr ? allocate_one(*mine, payer, cancel) : allocate_range(at, count, payer, cancel);
    if (!allocated) charges_.uncharge(payer, count);
    return allocated;
}

PageAllocator::Outcome<PageIndex> PageAllocator::allocate_one(PageMagazine& magazine, PageCharges::Id payer,
                                                              const std::atomic<bool>* cancel) {
    ArenaWords& words = presence_.words();
    for (;;) {
        if (magazine.empty() && !refill(magazine)) return allocate_range(std::nullopt, k_one, payer, cancel);
        const PageMagazine::Entry entry = magazine.pop();
        ArenaWord word = words.load(entry.page);
        // Taken from under the magazine, or given back: then it is in the hints, or will be found by the next scan.
        if (word.state() != PageState::recycled ||
            !words.try_change(entry.page, word, presence_.my(PageState::clearing)))
            continue;
        if (entry.warm)
            clear_warm_page(presence_.address_of(entry.page));
        else
            clear_cold_pages(presence_.address_of(entry.page), k_page_size);
        charges_.assign(PageRange::one(entry.page), payer);
        words.store(entry.page, presence_.my(PageState::used));
        return entry.page;
    }
}

PageAllocator::Outcome<PageIndex> PageAllocator::allocate_range(std::optional<PageIndex> at, PageCount count,
                                                                PageCharges::Id payer,
                                                                const std::atomic<bool>* cancel) {
    const auto claimed = at ? claim_at(PageRange::of(*at, count)) : claim_anywhere(count);
    if (!claimed) return std::unexpected{claimed.error()};
    if (const auto populated = presence_.populate(claimed->whole, cancel); !populated) {
        undo_claim(*claimed);
        return std::unexpected{populated.error().code == ECANCELED ? ECANCELED : ENOMEM};
    }
    charges_.assign(claimed->wanted, payer);
    end_claim(*claimed);
    return claimed->wanted.begin;
}

// Waits until a page that somebody works on is at rest. False if it takes too long.
bool PageAllocator::wait_for(PageIndex moving) noexcept {
    const std::uint64_t give_up_ns = os::monotonic_ns() + k_patience_ns;
    while (presence_.words().load(moving).moving()) {
        if (presence_.recover(moving, presence_.words().load(moving))) return true;
        if (os::monotonic_ns() > give_up_ns) return false;
        os::yield_processor();
    }
    return true;
}

PageAllocator::Outcome<PageAllocator::Claimed> PageAllocator::claim_at(PageRange range) {
    for (;;) {
        PageIndex blocker;
        if (presence_.claim(range, blocker)) {
            const Claimed claimed = widen(range);
            const std::lock_guard lock{mutex_};
            hints_.forget(claimed.whole);
            return claimed;
        }
        if (range.begin < blocker) {
            // Who met those that were claimed for a moment has taken them out of the hints.
            const std::lock_guard lock{mutex_};
            for (PageIndex page = range.begin; page < blocker; page = page + k_one)
                if (presence_.words().load(page).state() == PageState::recycled) hints_.keep(PageRange::one(page));
        }
        if (!presence_.words().load(blocker).moving()) {
            if (presence_.words().load(blocker).free()) continue;  // freed meanwhile
            return std::unexpected{EBUSY};
        }
        if (!wait_for(blocker)) return std::unexpected{EBUSY};
    }
}

PageAllocator::Outcome<PageAllocator::Claimed> PageAllocator::claim_anywhere(PageCount count) {
    const std::lock_guard lock{mutex_};
    hints_.refresh();
    for (bool rebuilt = false;;) {
        const auto found = hints_.free().smallest_of_at_least(count);
        if (!found) {
            if (rebuilt || !(hints_.may_lack() || presence_.shared())) return std::unexpected{ENOMEM};
            hints_.rebuild();
            rebuilt = true;
            continue;
        }
        const PageRange range = PageRange::of(found->begin, count);
        PageIndex blocker;
        if (presence_.claim(range, blocker)) {
            const Claimed claimed = widen(range);
            hints_.forget(claimed.whole);
            return claimed;
        }
        // Somebody has taken that page since the hints were refreshed.
        hints_.skip(blocker, range);
    }
}

void PageAllocator::end_claim(const Claimed& claimed) {
    presence_.finish(claimed.wanted, PageState::used);
    if (claimed.whole == claimed.wanted) return;
    for (const PageRange part :
         {PageRange{claimed.whole.begin, claimed.wanted.begin}, PageRange{claimed.wanted.end, claimed.whole.end}}) {
        presence_.finish_free(part);
        const std::lock_guard lock{mutex_};
        hints_.keep(part);
    }
}

void PageAllocator::undo_claim(const Claimed& claimed) {
    presence_.unclaim_filled(claimed.whole);
    const std::lock_guard lock{mutex_};
    for (PageIndex page = claimed.whole.begin; page < claimed.whole.end; page = page + k_one) {
        const PageState state = presence_.words().load(page).state();
        if (state == PageState::recycled)
            hints_.keep(PageRange::one(page));
        else if (state == PageState::absent)
            hints_.give(PageRange::one(page));
    }
}

PageAllocator::Outcome<void> PageAllocator::reserve(PageRange range) {
    const auto claimed = claim_at(range);
    if (!claimed) return std::unexpected{claimed.error()};
    // A reserved page has memory only if the host touches it.
    if (!presence_.drop_memory(claimed->wanted)) {
        undo_claim(*claimed);
        return std::unexpected{ENOMEM};
    }
    presence_.finish(claimed->wanted, PageState::reserved);
    if (claimed->whole == claimed->wanted) return {};
    const std::lock_guard lock{mutex_};
    for (const PageRange part :
         {PageRange{claimed->whole.begin, claimed->wanted.begin}, PageRange{claimed->wanted.end, claimed->whole.end}}) {
        presence_.unclaim(part);
        hints_.give(part);
    }
    return {};
}

// Freeing.

bool PageAllocator::free_one(PageIndex page) noexcept {
    PageMagazine* const mine = magazine();
    if (mine == nullptr) return false;
    ArenaWord word = presence_.words().load(page);
    if (word.state() != PageState::used || !presence_.words().try_change(page, word, presence_.my(PageState::freeing)))
        return false;
    charges_.release(PageRange::one(page));
    presence_.words().store(page, presence_.my(PageState::recycled));
    mine->refills = 0;
    if (mine->full()) [[unlikely]] {
        spill(*mine, PageMagazine::k_spill);
        shrink(PageCount{recycle_.load(std::memory_order_relaxed)});
    }
    mine->push({.page = page, .warm = true});
    return true;
}

PageAllocator::Outcome<void> PageAllocator::release(PageRange range) {
    if (range.count() == k_one && range.begin != presence_.guard() && free_one(range.begin)) return {};
    ArenaWords& words = presence_.words();
    Outcome<void> outcome;
    PageRange run{range.begin, range.begin};  // pages that are ours to free, all with memory or all without
    bool run_has_memory = false;
    PageIndex block_end = presence_.block_of(range.begin).end;
    const auto end_run = [&](PageIndex next) {
        if (!run.empty())
            if (const auto released = release_run(run, run_has_memory); !released) outcome = released;
        run = {next, next};
    };
    for (PageIndex page = range.begin; page < range.end; page = page + k_one) {
        // A touch that nobody has seen so far has made it used.
        if (!presence_.geometry().watched) (void)presence_.look(page);
        ArenaWord word = words.load(page);
        if (word.moving() && presence_.recover(page, word)) word = words.load(page);
        const bool has_memory = word.state() == PageState::used;
        const bool ours = (has_memory || word.state() == PageState::reserved) && page != presence_.guard() &&
                          words.try_change(page, word, presence_.my(PageState::freeing));
        // Batches end where blocks of 2 MiB do.
        const bool full = page == block_end;
        if (full) block_end = presence_.block_of(page).end;
        if (!ours || full || has_memory != run_has_memory) end_run(page);
        if (!ours) {
            run = {page + k_one, page + k_one};
            continue;
        }
        run_has_memory = has_memory;
        run.end = page + k_one;
    }
    end_run(range.end);
    return outcome;
}

PageAllocator::Outcome<void> PageAllocator::release_run(PageRange freeing, bool has_memory) {
    if (!has_memory) return give_memory_back(freeing, PageState::reserved);
    bool kept = false;
    {
        const std::lock_guard lock{mutex_};
        kept = options_.whole_blocks || room() >= freeing.count();
        if (kept) {
            charges_.release(freeing);
            presence_.finish(freeing, PageState::recycled);
            hints_.keep(freeing);
        }
    }
    if (!kept) return give_memory_back(freeing, PageState::used);
    if (options_.whole_blocks) release_free_blocks(freeing);
    return {};
}

// If the kernel would not take the memory back (out of memory itself), the pages are what they were.
PageAllocator::Outcome<void> PageAllocator::give_memory_back(PageRange freeing, PageState before) {
    const auto punched = presence_.punch(freeing);
    if (punched) charges_.release(freeing);
    const std::lock_guard lock{mutex_};
    presence_.finish(freeing, punched ? PageState::absent : before);
    if (punched)
        hints_.give(freeing);
    else if (before == PageState::recycled)
        hints_.keep(freeing);
    if (!punched) return std::unexpected{punched.error().code};
    return {};
}

// The next run of kept pages, moved to `freeing` and out of the hints.
PageRange PageAllocator::take_kept_run() noexcept {
    const std::lock_guard lock{mutex_};
    ArenaWords& words = presence_.words();
    while (hints_.kept() != PageCount{0}) {
        const PageRange run = hints_.next_kept(k_huge_page_pages);
        PageIndex end = run.begin;
        for (; end < run.end; end = end + k_one) {
            ArenaWord word = words.load(end);
            if (word.state() != PageState::recycled || !words.try_change(end, word, presence_.my(PageState::freeing)))
                break;
        }
        // The page at which it ended is somebody's; those behind it come next.
        hints_.forget({run.begin, std::min(end + k_one, run.end)});
        hints_.look_from(end);
        if (run.begin < end) return {run.begin, end};
    }
    return {};
}

void PageAllocator::see_if_magazines_fit() noexcept {
    const std::uint64_t pages = std::max<std::uint64_t>(magazines_.size(), 1) * PageMagazine::k_capacity;
    magazines_fit_.store(prepared_ && !options_.deterministic && !options_.whole_blocks &&
                             pages <= recycle_.load(std::memory_order_relaxed) / k_magazine_share,
                         std::memory_order_relaxed);
}

// What they may hold.
std::uint64_t PageAllocator::in_magazines() const noexcept {
    return magazines_fit_.load(std::memory_order_relaxed) ? magazines_.size() * PageMagazine::k_capacity : 0;
}

PageCount PageAllocator::room() const noexcept {
    const std::uint64_t kept = hints_.kept().value() + in_magazines();
    const std::uint64_t limit = recycle_.load(std::memory_order_relaxed);
    return PageCount{limit > kept ? limit - kept : 0};
}

void PageAllocator::shrink(PageCount to) {
    if (options_.whole_blocks) return;
    for (;;) {
        {
            const std::lock_guard lock{mutex_};
            if (hints_.kept().value() + in_magazines() <= std::max(to.value(), in_magazines())) return;
        }
        const PageRange run = take_kept_run();
        if (run.empty() || !give_memory_back(run, PageState::recycled)) return;
    }
}

void PageAllocator::set_recycle(PageCount count) {
    recycle_.store(count.value());
    {
        const std::lock_guard lock{mutex_};
        see_if_magazines_fit();
        // What is in magazines that are used no more is found by its words.
        if (!magazines_fit_.load(std::memory_order_relaxed)) hints_.rebuild();
    }
    if (options_.whole_blocks) release_free_blocks({PageIndex{}, PageIndex{} + presence_.pages()});
    shrink(count);
}

}  // namespace harena
