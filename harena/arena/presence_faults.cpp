// SPDX-License-Identifier: Apache-2.0
//
// How `Presence` answers the host's touches. All of it runs in signal handlers.
#include <algorithm>

#include "harena/arena/presence.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/signal.hpp"

namespace harena {

namespace {

/// How a touch waits for the thread that is at work on its page: first it yields, then it naps, and asks now and then
/// whether that thread's process is alive.
constexpr int k_yields = 64;
constexpr std::uint64_t k_nap_ns = 100'000;
constexpr int k_naps_between_questions = 8;
constexpr std::uint64_t k_patience_ns = 500'000'000;

}  // namespace

// Claims an absent page, and the absent ones next to it in its granule. Empty if the page is not absent any more.
PageRange Presence::claim_around(PageIndex page) noexcept {
    const auto claim_one = [this](PageIndex at) {
        ArenaWord word = words_.load(at);
        return word.state() == PageState::absent && at != guard_ &&
               words_.try_change(at, word, my(PageState::populating));
    };
    if (!claim_one(page)) return {page, page};
    const std::uint64_t granule = std::max(options_.fault_granule, geometry().unit()).value();
    const PageIndex first{align_down(page.value(), granule)};
    const PageIndex last{std::min(first.value() + granule, pages().value())};
    PageRange claimed = PageRange::one(page);
    while (claimed.end < last && claim_one(claimed.end)) claimed.end = claimed.end + PageCount{1};
    while (first < claimed.begin && claim_one(PageIndex{claimed.begin.value() - 1}))
        claimed.begin = PageIndex{claimed.begin.value() - 1};
    return claimed;
}

FaultAnswer Presence::fill_absent(PageIndex page) noexcept {
    PageRange claimed = claim_around(page);
    if (claimed.empty()) return page == guard_ ? FaultAnswer::refuse : FaultAnswer::retry;
    bool paid = charges_.charge(options_.payer, claimed.count());
    if (!paid && claimed.count() > PageCount{1}) {
        // The page itself may be within the limit.
        unclaim({claimed.begin, page});
        unclaim({page + PageCount{1}, claimed.end});
        claimed = PageRange::one(page);
        paid = charges_.charge(options_.payer, claimed.count());
    }
    if (!paid) {
        unclaim(claimed);
        return FaultAnswer::refuse;
    }
    for (PageIndex at = claimed.begin; at < claimed.end; at = at + PageCount{1}) touched_.insert(at.value());
    bool new_memory = false;
    os::SysResult<void> outcome;
    for (PageIndex at = claimed.begin; at < claimed.end && outcome;) {
        const auto done = put_zeros({at, claimed.end});
        if (done) {
            new_memory = new_memory || (at <= page && page < at + *done);
            at = at + *done;
        } else if (done.error().code == EEXIST) {
            at = at + PageCount{1};
        } else if (done.error().code != EAGAIN) {
            outcome = std::unexpected{done.error()};
        }
    }
    if (!outcome) {
        charges_.uncharge(options_.payer, claimed.count());
        unclaim_filled(claimed);
        // Who drained in between has taken the pages for used ones.
        hints_stale_.store(true, std::memory_order_release);
        return FaultAnswer::refuse;
    }
    charges_.assign(claimed, options_.payer);
    finish(claimed, PageState::used);
    host_faults_.fetch_add(1, std::memory_order_relaxed);
    return new_memory ? FaultAnswer::progress : FaultAnswer::retry;
}

// Puts memory behind a page that keeps its state, so that no free passes it by meanwhile. If one came between, its
// punch may have come before our memory: nullopt, look again, and the page's next step (absent to used) takes that
// memory over.
std::optional<FaultAnswer> Presence::fill_in_place(PageIndex page, ArenaWord word) noexcept {
    const auto filled = zero_page(page);
    if (!filled) return FaultAnswer::refuse;
    if (words_.load(page) != word) return std::nullopt;
    if (!*filled) return FaultAnswer::retry;
    host_faults_.fetch_add(1, std::memory_order_relaxed);
    return FaultAnswer::progress;
}

// Puts memory behind a page that another thread has claimed and does not come to. That one finds it there and clears it
// again before it hands it out: done twice, no harm. But if it gives the page up instead, the page has to be used: so
// it is marked first. nullopt: look again.
std::optional<FaultAnswer> Presence::help_populating(PageIndex page, ArenaWord word) noexcept {
    const ArenaWord marked{PageState::touched, word.owner()};
    const bool marks = word != marked;
    if (marks && !words_.try_change(page, word, marked)) return std::nullopt;
    const auto filled = zero_page(page);
    if (!filled) return FaultAnswer::refuse;
    if (words_.load(page) != marked) return std::nullopt;
    // A mark is progress, too: where the memory comes by itself (`make_blocks`), the next touch finds it.
    return *filled || marks ? FaultAnswer::progress : FaultAnswer::retry;
}

FaultAnswer Presence::host_fault(std::uintptr_t address, bool insist) noexcept {
    if (geometry().segv_on_fault || !geometry().watched) return FaultAnswer::refuse;
    const PageIndex page{(address - reinterpret_cast<std::uintptr_t>(address_)) / k_page_size};
    if (page == guard_) return FaultAnswer::refuse;
    std::uint64_t give_up_ns = 0;
    for (int turn = 0;; ++turn) {
        const ArenaWord word = words_.load(page);
        switch (word.state()) {
            case PageState::absent:
                return fill_absent(page);
            case PageState::reserved:
                if (geometry().strict_reserve) return FaultAnswer::refuse;
                if (const auto answer = fill_in_place(page, word)) return *answer;
                break;
            case PageState::used:
            case PageState::recycled:
                // Populated between the fault and now, mostly. If the fault persists the memory is gone though the page
                // should have some (MADV_REMOVE by the host, or a hostile process): put a page there.
                if (!insist) return FaultAnswer::retry;
                if (const auto answer = fill_in_place(page, word)) return *answer;
                break;
            case PageState::populating:
            case PageState::touched:
                if (turn < k_yields || !file_->slots().alive(word.owner())) break;
                if (const auto answer = help_populating(page, word)) return *answer;
                break;
            case PageState::clearing:
                // By this thread, maybe: somebody has taken the memory away that it clears.
                if (turn < k_yields || !file_->slots().alive(word.owner())) break;
                if (const auto answer = fill_in_place(page, word)) return *answer;
                break;
            case PageState::freeing:
                break;
        }
        if (turn < k_yields) {
            os::yield_processor();
            continue;
        }
        if ((turn - k_yields) % k_naps_between_questions == 0 && recover(page, word)) continue;
        const std::uint64_t now = os::monotonic_ns();
        if (give_up_ns == 0) give_up_ns = now + k_patience_ns;
        // The thread at work is this one, interrupted by a signal whose handler touched its page; or a hostile process.
        // A touch that goes on, on memory that may be lost, is better than one that does not.
        if (now > give_up_ns)
            if (const auto answer = fill_in_place(page, word)) return *answer;
        os::nap(k_nap_ns);
    }
}

}  // namespace harena
