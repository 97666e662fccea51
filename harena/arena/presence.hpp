// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "harena/arena/page_states.hpp"
#include "harena/base/bitmap.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/vm/vm_window.hpp"

namespace harena {

/// What the fault handler tells the faulting thread to do.
enum class FaultAnswer : std::uint8_t {
    retry,     ///< the page is there, or another thread is at it: run the instruction again
    progress,  ///< this call put a page there: run the instruction again
    refuse,    ///< SIGSEGV
};

/// The pages of one arena as the fault handler and the allocator share them: one file mapped at one place, absent pages
/// reported by userfaultfd, one state byte a page.
///
/// Everything is lock-free and async-signal-safe except `create`. Thread-safe.
class Presence final : public VmPageCounter {
public:
    struct Options {
        std::byte* address;  ///< where in the window the first page goes; the place is reserved by the caller
        PageCount pages;
        bool segv_on_fault;
        const char* name;  ///< of the memfd, seen in /proc/self/maps
    };

    /// Makes the file and maps it. Errors: EFBIG (RLIMIT_FSIZE), EMFILE, ENOMEM, ENOSYS or EPERM (no userfaultfd).
    [[nodiscard]] static Result<std::unique_ptr<Presence>> create(const Options& options);
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;
    ~Presence() override;

    [[nodiscard]] std::byte* address() const noexcept { return address_; }
    [[nodiscard]] PageCount pages() const noexcept { return states_.count(); }
    [[nodiscard]] PageStates& states() noexcept { return states_; }
    [[nodiscard]] bool holds(std::uintptr_t address) const noexcept {
        return address - reinterpret_cast<std::uintptr_t>(address_) < harena::bytes_of(states_.count());
    }

    /// Moves pages that are all absent to `populating`. False, and nothing changed, if one is not: `blocker` says
    /// which.
    [[nodiscard]] bool claim(PageRange range, PageIndex& blocker) noexcept;

    /// Puts zeroed memory behind pages that this thread claimed, and moves them to `used`.
    /// On an error (ENOMEM, ENOSPC) they have no memory and are still `populating`: the caller's, to be made absent
    /// again.
    /// With `cancel`, asks it after every batch and fails with ECANCELED once it is set.
    os::SysResult<void> populate(PageRange claimed, const std::atomic<bool>* cancel = nullptr) noexcept;

    /// Takes the memory of pages away that this thread moved to `freeing`; they stay in that state.
    os::SysResult<void> punch(PageRange freeing) noexcept;

    /// Answers the host's touch of an absent page. `insist`: earlier retries at this address changed nothing.
    [[nodiscard]] FaultAnswer host_fault(std::uintptr_t address, bool insist) noexcept;

    /// The pages that the host's touches have made used since the last call, in ascending order.
    template <typename Visit>
    void drain_touched(Visit&& visit) {
        touched_.drain([&](std::size_t page) { visit(PageIndex{page}); });
    }

    /// Whether a failed touch may have left a free page out of `drain_touched`'s reader's hints, since the last call.
    [[nodiscard]] bool take_hints_stale() noexcept { return hints_stale_.exchange(false, std::memory_order_acq_rel); }

    /// Pages with memory behind them, by their states: a look at each.
    [[nodiscard]] std::uint64_t present_pages() const noexcept override;

    [[nodiscard]] std::uint64_t host_faults() const noexcept { return host_faults_.load(std::memory_order_relaxed); }

    /// In a child after fork: gives up what belongs to the parent. Async-signal-safe.
    void abandon_in_child() noexcept;

private:
    explicit Presence(PageCount pages) : touched_{pages.value()} {}

    [[nodiscard]] Result<void> make_file(const Options& options);
    [[nodiscard]] Result<void> map(const Options& options);
    FaultAnswer fill_absent(PageIndex page) noexcept;
    std::optional<FaultAnswer> fill_in_place(PageIndex page, PageState state) noexcept;
    FaultAnswer help_populating(PageIndex page) noexcept;
    os::SysResult<bool> zero_page(PageIndex page) noexcept;

    os::FileDescriptor file_;
    os::FileDescriptor uffd_;
    std::byte* address_ = nullptr;
    std::byte* state_memory_ = nullptr;
    PageStates states_;
    AtomicIntake touched_;
    std::atomic<std::uint64_t> host_faults_{0};
    std::atomic<bool> hints_stale_{false};
    bool segv_on_fault_ = false;
};

}  // namespace harena
