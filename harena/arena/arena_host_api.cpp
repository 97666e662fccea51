// SPDX-License-Identifier: Apache-2.0
//
// The host's calls: every misuse is an error that names it.
#include <algorithm>
#include <array>
#include <cerrno>
#include <new>

#include "harena/arena/process_arena.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"

namespace harena {

namespace {

constexpr PageCount k_one{1};
/// How long a call waits for another process that is at work on a page.
constexpr std::uint64_t k_patience_ns = 500'000'000;

// Pages of [begin, end) on entries of 2 MiB; 0 where the kernel does not say.
std::uint64_t pages_on_2mib(std::uint64_t begin, std::uint64_t end) {
    const auto pagemap = os::open_for_reading("/proc/self/pagemap");
    if (!pagemap) return 0;
    std::array<os::AddressRange, 64> found;
    std::uint64_t bytes = 0;
    while (begin < end) {
        const auto scan = os::scan_huge_pages(pagemap->get(), begin, end, found);
        if (!scan) return 0;
        for (std::size_t i = 0; i < scan->ranges; ++i) bytes += found[i].end - found[i].begin;
        if (scan->next <= begin) break;
        begin = scan->next;
    }
    return bytes / k_page_size;
}

}  // namespace

Result<PageRange> Arena::checked_range(const void* address, PageCount count) const {
    const auto at = reinterpret_cast<std::uint64_t>(address);
    const std::uint64_t start = user_vm_start().value();
    if (count == PageCount{0}) return fail(EINVAL, "0 pages at {:#x}", at);
    if (!is_aligned(at, k_page_size)) return fail(EINVAL, "{:#x} is not the start of a page", at);
    const std::uint64_t first = (at - start) / k_page_size;
    if (at < start || first >= pages().value() || count.value() > pages().value() - first)
        return fail(ERANGE, "{} pages at {:#x} are not inside arena '{}' ({:#x}-{:#x})", count.value(), at, name(),
                    start, start + size());
    return PageRange::of(PageIndex{first}, count);
}

Result<ProcessArena::Payer> ProcessArena::payer(const std::shared_ptr<PageAccount>& caller) {
    if (options().tuning.charge == Charge::creator) return default_payer_;
    return charges_.id_of(caller);
}

// Why `count` pages (at `address`, if it is not null) were not to be had.
std::unexpected<Error> ProcessArena::no_pages(int error, PageCount count, const void* address,
                                              const PageAccount* payer) const {
    switch (error) {
        case EBUSY:
            return fail(EBUSY, "a page of the {} at {} is in use or reserved", count.value(), address);
        case EDQUOT:
            return fail(
                ENOMEM,
                "account '{}', or one above it, is at its limit ({} of {} pages used): arena '{}' wants {} more",
                payer == nullptr ? "" : payer->name(), payer == nullptr ? 0 : payer->used().value(),
                payer == nullptr ? 0 : payer->limit().value(), name(), count.value());
        default:
            return fail(ENOMEM, "arena '{}' has no {} adjoining free pages, or the machine has no memory for them",
                        name(), count.value());
    }
}

Result<void*> ProcessArena::alloc_pages(PageCount count, const AllocOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    if (count == PageCount{0}) return fail(EINVAL, "cannot allocate 0 pages");
    if (count > pages())
        return fail(E2BIG, "cannot allocate {} pages: arena '{}' has {}", count.value(), name(), pages().value());
    if (options.node != -1 && !os::numa_node_online(options.node))
        return fail(EINVAL, "NUMA node {} is not online", options.node);
    std::optional<PageIndex> at;
    if (options.address != nullptr) {
        HARENA_TRY(const PageRange range, checked_range(options.address, count));
        at = range.begin;
    }
    HARENA_TRY(const Payer payer, this->payer(options.account));
    const auto allocated = allocator_->allocate(at, count, payer);
    if (allocated) return address_of(*allocated);
    return no_pages(allocated.error(), count, options.address, charges_.account(payer));
}

Result<void> ProcessArena::free_pages(void* address, PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    if (address == nullptr) return fail(EINVAL, "cannot free pages at null");
    HARENA_TRY(const PageRange range, checked_range(address, count));
    for (PageIndex page = range.begin; page < range.end; page = page + k_one) {
        if (!watched()) (void)presence_->look(page);
        const PageState state = presence_->words().load(page).state();
        if (page == presence_->guard())
            return fail(EINVAL, "the page at {} is where NULL points to: the arena's null_guard", address_of(page));
        if (state != PageState::used && state != PageState::reserved)
            return fail(EINVAL, "the page at {} is free already, or being freed (a double free?)", address_of(page));
    }
    if (const auto released = allocator_->release(range); !released)
        return os::fail_with({released.error()},
                             fmt::format("some of the {} pages at {} stay allocated", count.value(), address));
    return {};
}

Result<void> ProcessArena::reserve_pages(void* address, PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    HARENA_TRY(const PageRange range, checked_range(address, count));
    const auto reserved = allocator_->reserve(range);
    if (reserved) return {};
    return no_pages(reserved.error(), count, address, nullptr);
}

Result<void> ProcessArena::populate(const void* address, std::uint64_t bytes) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    const std::uint64_t offset = at - user_vm_start().value();
    if (bytes > size() || offset > size() - bytes)
        return fail(ERANGE, "{} bytes at {:#x} are not inside arena '{}'", bytes, at, name());
    if (bytes == 0) return {};
    const PageIndex end{(offset + bytes - 1) / k_page_size + 1};
    for (PageIndex page{offset / k_page_size}; page < end; page = page + k_one) {
        if (page == presence_->guard())
            return fail(EFAULT, "the page at {} is where NULL points to: the arena's null_guard", address_of(page));
        std::uint64_t give_up_ns = 0;
        for (;;) {
            const ArenaWord word = presence_->words().load(page);
            if (word.state() == PageState::used) break;
            if (give_up_ns == 0) give_up_ns = os::monotonic_ns() + k_patience_ns;
            if (!watched() && (word.state() == PageState::absent || word.moving())) {
                // Waits for whoever moves it.
                const auto allocated = allocator_->allocate(page, k_one, default_payer_);
                if (!allocated && allocated.error() != EBUSY)
                    return no_pages(allocated.error(), k_one, address_of(page), charges_.account(default_payer_));
                if (allocated || presence_->words().load(page) != word || !word.moving()) continue;
            }
            if (!watched() && word.state() == PageState::reserved && !presence_->geometry().strict_reserve) {
                // The caller's system call, like any touch, fills it.
                break;
            }
            if (word.state() == PageState::recycled) {
                // Free, and to be had: the host's touch of it would not show.
                const auto allocated = allocator_->allocate(page, k_one, default_payer_);
                if (!allocated && allocated.error() != EBUSY)
                    return no_pages(allocated.error(), k_one, address_of(page), charges_.account(default_payer_));
                continue;
            }
            const FaultAnswer answer = presence_->host_fault(reinterpret_cast<std::uint64_t>(address_of(page)), false);
            const ArenaWord now = presence_->words().load(page);
            // Populated, and still reserved; or whoever allocates it knows that it is touched.
            if (answer != FaultAnswer::refuse &&
                (now.state() == PageState::reserved || now.state() == PageState::touched))
                break;
            if (now.moving() && os::monotonic_ns() > give_up_ns)
                return fail(EIO, "another process ({}) is at work on the page at {} and does not go on",
                            presence_->file().slots().process_of(now.owner()), address_of(page));
            if (answer != FaultAnswer::refuse) continue;
            if (segv_on_fault())
                return fail(EFAULT, "the page at {} is absent and the arena was made with segv_on_fault",
                            address_of(page));
            if (now.state() == PageState::reserved)
                return fail(EFAULT, "the page at {} is reserved and the arena was made with strict_reserve",
                            address_of(page));
            return no_pages(ENOMEM, k_one, address_of(page), nullptr);
        }
    }
    return {};
}

Result<void> ProcessArena::promote(void* address, PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    HARENA_TRY(const PageRange range, checked_range(address, count));
    if (presence_->blocks_within(range) != range)
        return fail(EINVAL, "{} pages at {} are not whole blocks of 2 MiB", count.value(), address);
    const auto promoted = allocator_->promote(range, default_payer_);
    if (promoted) return {};
    switch (promoted.error()) {
        case EBUSY:
            return fail(EBUSY,
                        "a page of the {} at {} is reserved or in use by the kernel, so that they cannot be on 2 MiB "
                        "entries now",
                        count.value(), address);
        case EINVAL:
            return fail(ENOTSUP, "this kernel has no 2 MiB pages for shared memory (MADV_COLLAPSE, Linux 6.1)");
        default:
            return no_pages(promoted.error(), count, address, charges_.account(default_payer_));
    }
}

Result<void> ProcessArena::set_recycle(PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    allocator_->set_recycle(count);
    return {};
}

Result<PageCount> ProcessArena::recover() {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    return PageCount{presence_->recover_all()};
}

Result<ArenaStatistics> ProcessArena::statistics() {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    std::uint64_t used = 0;
    std::uint64_t reserved = 0;
    std::uint64_t recycled = 0;
    if (presence_->shared()) (void)charges_.settle(presence_->words(), presence_->me());
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + k_one) {
        if (!watched()) (void)presence_->look(page);
        switch (presence_->words().load(page).state()) {
            case PageState::used:
            case PageState::populating:
            case PageState::clearing:
            case PageState::touched:
                ++used;
                break;
            case PageState::reserved:
                reserved += page == presence_->guard() ? 0U : 1U;
                break;
            case PageState::recycled:
                ++recycled;
                break;
            case PageState::absent:
            case PageState::freeing:
                break;
        }
    }
    const std::uint64_t begin = user_vm_start().value();
    const bool hugetlb = presence_->geometry().hugetlb;  // then the kernel says so of pages without memory, too
    const std::uint64_t on_2mib = hugetlb ? used + recycled : pages_on_2mib(begin, begin + size());
    return ArenaStatistics{.pages = pages(),
                           .used = PageCount{used},
                           .reserved = PageCount{reserved},
                           .recycled = PageCount{recycled},
                           .on_2mib = PageCount{on_2mib},
                           .host_faults = presence_->host_faults(),
                           .program_faults = program_faults_.load(std::memory_order_relaxed),
                           .recovered = presence_->recovered_pages(),
                           .unwatched = presence_->unwatched_pages(),
                           .processes = presence_->file().slots().count(),
                           .watched = watched(),
                           .hugetlb = hugetlb};
}

Result<std::vector<ArenaRange>> ProcessArena::snapshot() try {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    std::vector<ArenaRange> ranges;
    ArenaWord last;
    Payer last_payer = 0;
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + k_one) {
        if (!watched()) (void)presence_->look(page);
        const ArenaWord word = presence_->words().load(page);
        const Payer payer = charges_.payer_of(page);
        const bool taken =
            (word.state() == PageState::used || word.state() == PageState::reserved) && page != presence_->guard();
        if (taken && !ranges.empty() && word == last && payer == last_payer) {
            ranges.back().pages = ranges.back().pages + k_one;
        } else if (taken) {
            const PageAccount* const account = charges_.account(payer);
            ranges.push_back({.address = data() + byte_offset(page),
                              .pages = k_one,
                              .reserved = word.state() == PageState::reserved,
                              .process = presence_->file().slots().process_of(word.owner()),
                              .mine = word.owner() == presence_->me(),
                              .account = account == nullptr ? "" : account->name()});
        }
        last = taken ? word : ArenaWord{};
        last_payer = payer;
    }
    return ranges;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for a snapshot of arena '{}'", name());
}

bool ProcessArena::has_memory(std::int64_t offset, unsigned bytes) noexcept {
    const std::int64_t first = offset - static_cast<std::int64_t>(user_vm_start().value() % Window::k_bytes);
    for (const std::int64_t at : {first, first + bytes - 1}) {
        if (at < 0 || static_cast<std::uint64_t>(at) >= size()) return false;
        if (!presence_->look(PageIndex{static_cast<std::uint64_t>(at) / k_page_size})) return false;
    }
    return true;
}

}  // namespace harena
