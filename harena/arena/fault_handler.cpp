// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/fault_handler.hpp"

#if defined(__x86_64__)
#include "harena/base/fault_context_x86_64.hpp"
#else
#error "harena's fault handler knows x86-64 only: add fault_context_<machine>.hpp"
#endif

#include <mutex>

#include "harena/arena/chained_signals.hpp"
#include "harena/base/fork.hpp"
#include "harena/base/immortal.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/signal.hpp"
#include "harena/base/thread_owned.hpp"
#include "harena/exec/exception_table.hpp"

namespace harena::fault_handler {

namespace {

constinit Immortal<Regions> immortal_regions;
Regions& regions = immortal_regions.value;
constinit std::mutex fork_gate;

// Faults in a row at one address of this thread that changed nothing. In a row: soon after one another; else a thread
// that loses a race at its favourite address once an hour would be given up one day.
struct Repeats {
    std::uintptr_t address = 0;
    unsigned count = 0;
    std::uint64_t last_ns = 0;
};
// initial-exec: reached by an offset from the thread pointer, never through an allocating call.
[[gnu::tls_model("initial-exec")]] constinit thread_local Repeats repeats;

constexpr unsigned k_insist_after = 16;
constexpr unsigned k_give_up_after = 64;
constexpr std::uint64_t k_in_a_row_ns = 1'000'000'000;

// Signal handler. The fault of an instruction that is not a program's, at an address of an arena.
bool resolve_host_fault(Presence& presence, std::uintptr_t address) noexcept {
    Repeats& r = repeats;
    if (r.address != address || (r.count != 0 && os::monotonic_ns() - r.last_ns > k_in_a_row_ns))
        r = {.address = address, .count = 0, .last_ns = 0};
    if (r.count >= k_give_up_after) {
        r.count = 0;
        return false;
    }
    switch (presence.host_fault(address, r.count >= k_insist_after)) {
        case FaultAnswer::progress:
            r.count = 0;
            return true;
        case FaultAnswer::retry:
            ++r.count;
            r.last_ns = os::monotonic_ns();
            return true;
        case FaultAnswer::refuse:
            r.count = 0;
            return false;
    }
    return false;
}

// A fault of an access to memory, and not a signal that somebody sent or a memory error.
bool is_access_fault(int signal, const siginfo_t& info) noexcept {
    // BUS_ADRALN: a program's atomic across two cache lines, where the kernel forbids those (split_lock_detect=fatal).
    if (signal == SIGBUS) return info.si_code == BUS_ADRERR || info.si_code == BUS_ADRALN;
    return signal == SIGSEGV && (info.si_code == SEGV_MAPERR || info.si_code == SEGV_ACCERR);
}

void on_signal(int signal, siginfo_t* info, void* context) noexcept {
    const int saved_errno = errno;
    if (!handle(signal, info, context)) chained_signals::pass_on(signal, info, context);
    errno = saved_errno;
}

void before_fork() noexcept {
    fork_gate.lock();
    regions.lock();
    ExceptionTable::instance().lock();
}

void after_fork_in_parent() noexcept {
    ExceptionTable::instance().unlock();
    regions.unlock();
    fork_gate.unlock();
}

// The child has no arena: nothing was inherited, and their windows are reserved again (VmWindow).
void after_fork_in_child() noexcept {
    regions.for_each([](const Region& region) { region.presence->abandon_in_child(); });
    ExceptionTable::instance().unlock_in_child();
    regions.unlock();
    fork_gate.unlock();
}

}  // namespace

bool handle(int signal, siginfo_t* info, void* context) noexcept {
    if (!is_access_fault(signal, *info)) return false;
    if (const std::uintptr_t fixup = ExceptionTable::instance().find_fixup(fault_context::instruction(context));
        fixup != 0) {
        fault_context::set_instruction(context, fixup);
        return true;
    }
    if (signal != SIGBUS || info->si_code != BUS_ADRERR) return false;
    const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
    const auto region = regions.find_if([address](const Region& r) { return address - r.begin < r.bytes; });
    if (!region) return false;
    if (!resolve_host_fault(*region->presence, address)) chained_signals::turn_into_segv(info, context);
    return true;
}

Result<void> install() {
    static std::mutex mutex;
    static bool fork_handled = false;
    static bool signals_handled = false;
    const std::lock_guard lock{mutex};
    // Each once, also if the other failed: handlers of fork that run twice would lock twice.
    if (!fork_handled) {
        // An arena is made with the gate held: their locks are taken after it.
        HARENA_CHECK_OK(NotInherited::prepare());
        HARENA_CHECK_OK(ThreadOwned::prepare());
        HARENA_CHECK_OK(
            at_fork({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child}));
    }
    fork_handled = true;
    if (!signals_handled) HARENA_CHECK_OK(chained_signals::install(&on_signal));
    signals_handled = true;
    return {};
}

std::unique_lock<std::mutex> block_forks() { return std::unique_lock{fork_gate}; }

Result<Regions::Handle> add(const Region& region) { return regions.add(region); }
void remove(Regions::Handle handle) noexcept { regions.remove(handle); }

}  // namespace harena::fault_handler
