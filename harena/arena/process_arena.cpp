// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/process_arena.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "harena/arena/nofault.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

namespace {

/// How many pages one punch takes at most: a touch waits for no more than that.
constexpr PageCount k_punch_batch{512};

Result<void> check(const ArenaOptions& options) {
    const std::uint64_t start = options.user_vm_start.value();
    if (options.pages == PageCount{0})
        return fail(EINVAL, "arena '{}': 0 pages; an arena has at least one", options.name);
    if (!is_aligned(start, k_page_size))
        return fail(EINVAL, "arena '{}': user_vm_start {:#x} is not a multiple of the page size", options.name, start);
    if (options.pages > Arena::k_max_pages)
        return fail(E2BIG, "arena '{}': {} pages are more than 4 GiB (1048576 pages)", options.name,
                    options.pages.value());
    if (const std::uint64_t last = start + harena::bytes_of(options.pages) - 1; start >> 32 != last >> 32)
        return fail(ERANGE, "arena '{}': {:#x}-{:#x} crosses a 4 GiB boundary", options.name, start, last + 1);
    return {};
}

// Where in a window of its own an arena goes that may be anywhere: not at pointer 0, if it can be helped, since a user
// pointer with 32 zero bits is NULL to a program.
std::uint64_t chosen_offset(PageCount pages) noexcept {
    return harena::bytes_of(pages) <= Window::k_bytes - k_huge_page_size ? k_huge_page_size : 0;
}

}  // namespace

Result<std::shared_ptr<ProcessArena>> ProcessArena::create(const ArenaOptions& options) try {
    HARENA_CHECK_OK(check(options));
    const auto no_fork = fault_handler::block_forks();  // first: a child must not inherit a lock of what follows, held
    HARENA_CHECK_OK(nofault::register_text());
    HARENA_CHECK_OK(fault_handler::install());
    const std::uint64_t start = options.user_vm_start.value();
    auto window = Window::reserve(start == 0 ? std::nullopt : std::optional{align_down(start, Window::k_bytes)},
                                  options.name, options.where);
    if (!window) return pass_on(window.error().in(fmt::format("arena '{}'", options.name)));
    const std::uint64_t offset = start == 0 ? chosen_offset(options.pages) : start % Window::k_bytes;

    std::shared_ptr<ProcessArena> arena{new ProcessArena{options, std::move(*window)}};
    auto presence = Presence::create({.address = arena->window() + offset,
                                      .pages = options.pages,
                                      .segv_on_fault = options.segv_on_fault,
                                      .name = arena->name().c_str()});
    if (!presence) return pass_on(presence.error().in(fmt::format("arena '{}'", options.name)));
    arena->presence_ = std::move(*presence);
    arena->set_data(arena->presence_->address());
    HARENA_TRY(arena->region_, fault_handler::add({.begin = arena->user_vm_start().value(),
                                                   .bytes = arena->size(),
                                                   .presence = arena->presence_.get()}));
    arena->window_.count_pages_with(arena->presence_.get());
    return arena;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep account of an arena of {} pages", options.pages.value());
}

ProcessArena::~ProcessArena() {
    if (!region_) return;  // `create` failed, and holds the lock
    // A child of a fork between here and the end would keep the descriptors: nobody closes them for it any more.
    const auto no_fork = fault_handler::block_forks();
    fault_handler::remove(*region_);
    window_.count_pages_with(nullptr);
    presence_.reset();
    const Window gone = std::move(window_);
}

ProcessArena::Outcome<PageIndex> ProcessArena::allocate(std::optional<PageIndex> at, PageCount count,
                                                        const std::atomic<bool>* cancel) {
    const auto claimed = claim_free(at, count);
    if (!claimed) return std::unexpected{claimed.error()};
    if (const auto populated = presence_->populate(*claimed, cancel); !populated) {
        give_back(*claimed);
        return std::unexpected{ENOMEM};
    }
    return claimed->begin;
}

ProcessArena::Outcome<PageRange> ProcessArena::claim_free(std::optional<PageIndex> at, PageCount count) try {
    const std::lock_guard lock{mutex_};
    for (;;) {
        refresh_hints();
        PageRange range{};
        if (at) {
            range = PageRange::of(*at, count);
            if (!free_.contains(range)) return std::unexpected{EBUSY};
        } else {
            const auto found = free_.smallest_of_at_least(count);
            if (!found) return std::unexpected{ENOMEM};
            range = PageRange::of(found->begin, count);
        }
        PageIndex blocker;
        if (presence_->claim(range, blocker)) {
            take_hint(range);
            return range;
        }
        // The host touched that page since the hints were refreshed.
        take_hint(PageRange::of(blocker, PageCount{1}));
    }
} catch (const std::bad_alloc&) {
    const std::lock_guard lock{mutex_};
    forget_hints();
    return std::unexpected{ENOMEM};
}

ProcessArena::Outcome<void> ProcessArena::release(PageRange range) {
    PageStates& states = presence_->states();
    Outcome<void> outcome;
    PageIndex begin = range.begin;  // of the run of pages that are ours to free
    for (PageIndex page = range.begin;; page = page + PageCount{1}) {
        const bool ours = page < range.end && (states.try_change(page, PageState::used, PageState::freeing) ||
                                               states.try_change(page, PageState::reserved, PageState::freeing));
        if (ours && page - begin < k_punch_batch) continue;
        // A page that is ours but does not fit the batch begins the next one.
        if (begin < page) {
            if (const auto run = release_run({begin, page}); !run) outcome = run;
        }
        begin = ours ? page : page + PageCount{1};
        if (page >= range.end) return outcome;
    }
}

ProcessArena::Outcome<void> ProcessArena::release_run(PageRange freeing) {
    if (const auto punched = presence_->punch(freeing); !punched) {
        // The kernel would not take the memory back (out of memory itself): the pages stay allocated.
        presence_->states().store(freeing, PageState::used);
        return std::unexpected{punched.error().code};
    }
    give_back(freeing);
    return {};
}

void ProcessArena::give_back(PageRange range) {
    const std::lock_guard lock{mutex_};
    // First, because pages that a touch made used are free to the hints until they are drained.
    drain_touched();
    presence_->states().store(range, PageState::absent);
    give_hint(range);
}

ProcessArena::Outcome<void> ProcessArena::reserve(PageRange range) try {
    const std::lock_guard lock{mutex_};
    refresh_hints();
    if (!free_.contains(range)) return std::unexpected{EBUSY};
    PageIndex blocker;
    // By way of `populating`: nobody else changes such pages, so that they can be given up if a later one is not free.
    if (!presence_->claim(range, blocker)) return std::unexpected{EBUSY};
    presence_->states().store(range, PageState::reserved);
    take_hint(range);
    return {};
} catch (const std::bad_alloc&) {
    const std::lock_guard lock{mutex_};
    forget_hints();
    return std::unexpected{ENOMEM};
}

void ProcessArena::refresh_hints() {
    if (presence_->take_hints_stale()) hints_stale_ = true;
    if (hints_stale_) rebuild_hints();
    drain_touched();
}

void ProcessArena::drain_touched() noexcept {
    presence_->drain_touched([this](PageIndex page) {
        const PageRange one = PageRange::of(page, PageCount{1});
        // A page whose touch failed is free.
        if (presence_->states().load(page) != PageState::absent && free_.contains(one)) take_hint(one);
    });
}

void ProcessArena::rebuild_hints() {
    free_.clear();
    const PageStates& states = presence_->states();
    PageIndex begin{0};
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + PageCount{1}) {
        if (states.load(page) == PageState::absent) continue;
        free_.give({begin, page});
        begin = page + PageCount{1};
    }
    free_.give({begin, PageIndex{} + pages()});
    hints_stale_ = false;
}

void ProcessArena::give_hint(PageRange range) noexcept {
    if (hints_stale_) return;  // the rebuild will find them
    try {
        free_.give(range);
    } catch (const std::bad_alloc&) {
        forget_hints();
    }
}

void ProcessArena::take_hint(PageRange range) noexcept {
    if (hints_stale_) return;
    try {
        free_.take(range);
    } catch (const std::bad_alloc&) {
        forget_hints();
    }
}

void ProcessArena::forget_hints() noexcept {
    free_.clear();
    hints_stale_ = true;
}

Result<ArenaStatistics> ProcessArena::statistics() {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    ArenaStatistics statistics{.pages = pages(),
                               .used = {},
                               .reserved = {},
                               .host_faults = presence_->host_faults(),
                               .program_faults = program_faults_.load(std::memory_order_relaxed)};
    std::uint64_t used = 0;
    std::uint64_t reserved = 0;
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + PageCount{1}) {
        const PageState state = presence_->states().load(page);
        used += state == PageState::used || state == PageState::populating ? 1 : 0;
        reserved += state == PageState::reserved ? 1 : 0;
    }
    statistics.used = PageCount{used};
    statistics.reserved = PageCount{reserved};
    return statistics;
}

}  // namespace harena
