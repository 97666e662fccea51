// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/presence.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "harena/base/os/signal.hpp"

namespace harena {

namespace {

/// How a touch waits for the thread that is populating or freeing its page: first it yields, then it naps.
constexpr int k_yields = 64;
/// Pages that are populated at a time where the caller may be told to stop: under a millisecond.
constexpr PageCount k_batch{512};
constexpr int k_naps = 20'000;
constexpr std::uint64_t k_nap_ns = 100'000;

std::uint64_t state_bytes(PageCount pages) noexcept { return align_up(pages.value(), k_page_size); }

Result<os::FileDescriptor> open_userfaultfd() {
    auto uffd = os::userfaultfd();
    if (!uffd)
        return fail(
            uffd.error().code,
            "arenas need userfaultfd(2), which this process may not have here ({}); Linux 5.11 and later allow it "
            "without privilege unless a sandbox (seccomp) refuses it: see 'harena doctor'",
            os::describe(uffd.error()));
    if (const auto agreed = os::uffd_api(uffd->get(), UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM); !agreed)
        return fail(agreed.error().code,
                    "this kernel's userfaultfd lacks SIGBUS delivery for shared memory (Linux 4.14): {}",
                    os::describe(agreed.error()));
    return std::move(*uffd);
}

}  // namespace

Result<std::unique_ptr<Presence>> Presence::create(const Options& options) {
    std::unique_ptr<Presence> presence{new Presence{options.pages}};
    presence->segv_on_fault_ = options.segv_on_fault;
    HARENA_CHECK_OK(presence->make_file(options));
    HARENA_TRY(presence->uffd_, open_userfaultfd());
    HARENA_CHECK_OK(presence->map(options));
    return presence;
}

Result<void> Presence::make_file(const Options& options) {
    const std::uint64_t bytes = harena::bytes_of(options.pages) + state_bytes(options.pages);
    const auto limit = os::getrlimit(RLIMIT_FSIZE);
    if (limit && *limit < bytes)
        return fail(EFBIG, "the arena's file needs {} bytes and the limit RLIMIT_FSIZE is {}; raise it (ulimit -f)",
                    bytes, *limit);
    // Seen in /proc/self/maps; the kernel takes at most 249 bytes.
    const std::string name = fmt::format("harena:{}", std::string_view{options.name}.substr(0, 200));
    auto file = os::memfd_create(name.c_str());
    if (!file) return os::fail_with(file.error(), "cannot create the arena's memfd");
    file_ = std::move(*file);
    if (const auto sized = os::ftruncate(file_.get(), bytes); !sized)
        return os::fail_with(sized.error(), fmt::format("cannot size the arena's memfd to {} bytes", bytes));
    if (const auto sealed = os::add_seals(file_.get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); !sealed)
        return os::fail_with(sealed.error(), "cannot seal the size of the arena's memfd");
    return {};
}

Result<void> Presence::map(const Options& options) {
    const std::uint64_t bytes = harena::bytes_of(options.pages);
    // PROT_NONE and unlocked until userfaultfd watches it: under mlockall(MCL_FUTURE) a writable mapping would be
    // filled at once, 4 GiB of it.
    const auto mapped = os::mmap(options.address, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, file_.get(), 0);
    if (!mapped) return os::fail_with(mapped.error(), "cannot map the arena's memfd into its window");
    address_ = options.address;
    (void)os::munlock(address_, bytes);
    if (const auto registered = os::uffd_register_missing(uffd_.get(), address_, bytes); !registered)
        return os::fail_with(registered.error(), "cannot register the arena with userfaultfd");
    if (const auto opened = os::mprotect(address_, bytes, PROT_READ | PROT_WRITE); !opened)
        return os::fail_with(opened.error(), "cannot make the arena writable");
    if (const auto advised = os::madvise(address_, bytes, MADV_DONTFORK); !advised)
        return os::fail_with(advised.error(), "cannot keep the arena from being inherited over fork");

    const std::uint64_t length = state_bytes(options.pages);
    const auto states = os::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), bytes);
    if (!states) return os::fail_with(states.error(), "cannot map the arena's page states");
    state_memory_ = static_cast<std::byte*>(*states);
    states_ = PageStates{reinterpret_cast<std::atomic<std::uint8_t>*>(state_memory_), options.pages};
    if (const auto advised = os::madvise(state_memory_, length, MADV_DONTFORK); !advised)
        return os::fail_with(advised.error(), "cannot keep the arena's page states from being inherited over fork");
    return {};
}

Presence::~Presence() {
    // The arena's own mapping goes with its window.
    if (state_memory_ != nullptr) (void)os::munmap(state_memory_, state_bytes(pages()));
}

std::uint64_t Presence::present_pages() const noexcept {
    std::uint64_t present = 0;
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + PageCount{1}) {
        const PageState state = states_.load(page);
        present += state == PageState::used || state == PageState::recycled ? 1 : 0;
    }
    return present;
}

void Presence::abandon_in_child() noexcept {
    // The numbers are this process's copies of the parent's descriptors; with them the child could still reach the
    // parent's pages. The mappings were not inherited.
    file_.reset();
    uffd_.reset();
    state_memory_ = nullptr;
}

bool Presence::claim(PageRange range, PageIndex& blocker) noexcept {
    for (PageIndex page = range.begin; page < range.end; page = page + PageCount{1}) {
        if (states_.try_change(page, PageState::absent, PageState::populating)) continue;
        blocker = page;
        states_.store({range.begin, page}, PageState::absent);
        return false;
    }
    return true;
}

os::SysResult<void> Presence::populate(PageRange claimed, const std::atomic<bool>* cancel) noexcept {
    PageIndex page = claimed.begin;
    while (page < claimed.end) {
        if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
            (void)punch(claimed);
            return os::sys_fail(ECANCELED);
        }
        std::byte* const at = address_ + byte_offset(page);
        const PageCount batch = std::min(claimed.end - page, cancel != nullptr ? k_batch : claimed.count());
        const auto done = os::uffd_zeropage(uffd_.get(), at, harena::bytes_of(batch));
        if (done) {
            page = page + PageCount{*done / k_page_size};
        } else if (done.error().code == EEXIST) {
            // Memory that a touch in a narrow race left behind (docs/arena.md): it may hold anything.
            std::memset(at, 0, k_page_size);
            page = page + PageCount{1};
        } else if (done.error().code != EAGAIN) {
            (void)punch(claimed);
            return std::unexpected{done.error()};
        }
    }
    states_.store(claimed, PageState::used);
    return {};
}

os::SysResult<void> Presence::punch(PageRange freeing) noexcept {
    for (;;) {
        const auto punched = os::punch_hole(file_.get(), byte_offset(freeing.begin), harena::bytes_of(freeing.count()));
        if (punched || punched.error().code != EINTR) return punched;
    }
}

os::SysResult<bool> Presence::zero_page(PageIndex page) noexcept {
    for (;;) {
        const auto done = os::uffd_zeropage(uffd_.get(), address_ + byte_offset(page), k_page_size);
        if (done) return true;
        if (done.error().code == EEXIST) return false;
        if (done.error().code != EAGAIN) return std::unexpected{done.error()};
    }
}

FaultAnswer Presence::fill_absent(PageIndex page) noexcept {
    if (!states_.try_change(page, PageState::absent, PageState::populating)) return FaultAnswer::retry;
    touched_.insert(page.value());
    const auto filled = zero_page(page);
    states_.store(page, filled ? PageState::used : PageState::absent);
    if (!filled) {
        // Who drained in between has taken the page for a used one.
        hints_stale_.store(true, std::memory_order_release);
        return FaultAnswer::refuse;
    }
    host_faults_.fetch_add(1, std::memory_order_relaxed);
    return *filled ? FaultAnswer::progress : FaultAnswer::retry;
}

// Puts memory behind a page that keeps its state, so that no free passes it by meanwhile. If one came between, its
// punch may have come before our memory: nullopt, look again, and the page's next step (absent to used) takes that
// memory over.
std::optional<FaultAnswer> Presence::fill_in_place(PageIndex page, PageState state) noexcept {
    const auto filled = zero_page(page);
    if (!filled) return FaultAnswer::refuse;
    if (states_.load(page) != state) return std::nullopt;
    if (!*filled) return FaultAnswer::retry;
    host_faults_.fetch_add(1, std::memory_order_relaxed);
    return FaultAnswer::progress;
}

FaultAnswer Presence::help_populating(PageIndex page) noexcept {
    // The thread that claimed the page finds it there and clears it again before it hands it out: done twice, no harm.
    return zero_page(page) ? FaultAnswer::progress : FaultAnswer::refuse;
}

FaultAnswer Presence::host_fault(std::uintptr_t address, bool insist) noexcept {
    if (segv_on_fault_) return FaultAnswer::refuse;
    const PageIndex page{(address - reinterpret_cast<std::uintptr_t>(address_)) / k_page_size};
    for (int turn = 0; turn < k_yields + k_naps; ++turn) {
        switch (states_.load(page)) {
            case PageState::absent:
                return fill_absent(page);
            case PageState::reserved:
                if (const auto answer = fill_in_place(page, PageState::reserved)) return *answer;
                break;
            case PageState::used:
                // Populated between the fault and now, mostly. If the fault persists the memory is gone though the page
                // is used (MADV_REMOVE by the host): put a page there.
                if (!insist) return FaultAnswer::retry;
                if (const auto answer = fill_in_place(page, PageState::used)) return *answer;
                break;
            case PageState::populating:
                if (turn >= k_yields) return help_populating(page);
                break;
            case PageState::freeing:
            case PageState::recycled:
                break;
        }
        if (turn < k_yields) {
            os::yield_processor();
        } else {
            os::nap(k_nap_ns);
        }
    }
    // Two seconds: the freeing thread is this one, interrupted by a signal whose handler touched what is being freed.
    return FaultAnswer::refuse;
}

}  // namespace harena
