// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/arena_words.hpp"
#include "harena/arena/page_charges.hpp"
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

/// The pages of one arena as the fault handler and the allocator of this process share them with other processes: a
/// file mapped at one place, absent pages reported by userfaultfd, one word a page.
///
/// Everything is lock-free and async-signal-safe except `create` and `watch_report`. Thread-safe.
class Presence final : public VmPageCounter {
public:
    struct Options {
        /// Pages that a touch of the host makes used together: a power of two, at most 512.
        PageCount fault_granule{1};
        /// Whether free blocks of 2 MiB get one page-table entry where they are wanted whole.
        bool huge_blocks = false;
        /// What the host's touches are charged to.
        PageCharges::Id payer = 0;
    };

    /// Maps the file at `address`, where the caller has reserved the place. `charges` must outlive this object.
    /// Errors: ENOMEM, ENOSYS or EPERM (no userfaultfd, and the arena is a watched one).
    [[nodiscard]] static Result<std::unique_ptr<Presence>> create(std::byte* address, std::unique_ptr<ArenaFile> file,
                                                                  PageCharges& charges, const Options& options);
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;
    ~Presence() override = default;

    [[nodiscard]] const ArenaGeometry& geometry() const noexcept { return file_->geometry(); }
    [[nodiscard]] const ArenaFile& file() const noexcept { return *file_; }
    [[nodiscard]] std::byte* address() const noexcept { return address_; }
    [[nodiscard]] std::byte* address_of(PageIndex page) const noexcept { return address_ + byte_offset(page); }
    [[nodiscard]] PageCount pages() const noexcept { return words_.count(); }
    [[nodiscard]] ArenaWords& words() noexcept { return words_; }
    [[nodiscard]] PageOwner me() const noexcept { return me_; }
    /// A page of this process in `state`.
    [[nodiscard]] ArenaWord my(PageState state) const noexcept {
        return {state, state == PageState::absent ? PageOwner{} : me_};
    }
    [[nodiscard]] bool holds(std::uintptr_t address) const noexcept {
        return address - reinterpret_cast<std::uintptr_t>(address_) < harena::bytes_of(words_.count());
    }
    /// The page that is never in use (`null_guard`).
    [[nodiscard]] std::optional<PageIndex> guard() const noexcept { return guard_; }

    /// Makes free pages this thread's: the absent ones `populating`, the recycled ones `clearing`. False, and nothing
    /// changed, if one is not free: `blocker` says which.
    [[nodiscard]] bool claim(PageRange range, PageIndex& blocker) noexcept;
    /// Gives claimed pages back as they were. They are free again, but for those that the host has touched meanwhile.
    void unclaim(PageRange claimed) noexcept;
    /// The same for pages that `populate` may have put memory behind, which is taken away again.
    void unclaim_filled(PageRange claimed) noexcept;

    /// Puts zeroed memory behind claimed pages and leaves them `populating` or `clearing`: `finish` ends that.
    /// On an error (ENOMEM, ENOSPC), or ECANCELED once `cancel` is set, they are to be given to `unclaim_filled`.
    os::SysResult<void> populate(PageRange claimed, const std::atomic<bool>* cancel = nullptr) noexcept;
    /// Ends the move of pages that are this thread's.
    void finish(PageRange moving, PageState state) noexcept { words_.store(moving, my(state)); }
    /// The same for pages with memory that are to be free: those that the host has touched meanwhile become used.
    void finish_free(PageRange populated) noexcept;

    /// Takes away the memory of those claimed pages that have some: all are `populating` then. If the kernel refuses
    /// that (false), they are to be given to `unclaim_filled`.
    [[nodiscard]] bool drop_memory(PageRange claimed) noexcept;
    /// Takes the memory of pages away that this thread moved to `freeing`; they stay in that state. No more than a
    /// block of 2 MiB at a time, since a touch waits for it.
    os::SysResult<void> punch(PageRange freeing) noexcept;

    /// If whoever moves this page is dead, takes his place, takes the memory away, and makes the page absent. False if
    /// he is alive, or the page does not have that word any more and does not move.
    bool recover(PageIndex page, ArenaWord moving) noexcept;
    /// The same for all pages. Returns how many there were.
    std::uint64_t recover_all() noexcept;

    /// Answers the host's touch of an absent page. `insist`: earlier retries at this address changed nothing.
    [[nodiscard]] FaultAnswer host_fault(std::uintptr_t address, bool insist) noexcept;

    /// Whether the page has memory that a program or the host may see. Without userfaultfd a look at the file, which
    /// makes pages used that the host has touched.
    [[nodiscard]] bool look(PageIndex page) noexcept;

    /// Puts full blocks of 2 MiB on one page-table entry each. Errors: EBUSY, EINVAL, ENOMEM (as of MADV_COLLAPSE).
    os::SysResult<void> collapse(PageRange blocks) noexcept;
    /// The whole blocks of 2 MiB in `range`.
    [[nodiscard]] PageRange blocks_within(PageRange range) const noexcept;
    /// The pages of the arena in the block of 2 MiB that `page` is in.
    [[nodiscard]] PageRange block_of(PageIndex page) const noexcept;

    /// The pages that the host's touches have made used since the last call, in ascending order.
    template <typename Visit>
    void drain_touched(Visit&& visit) {
        touched_.drain([&](std::size_t page) { visit(PageIndex{page}); });
    }
    /// Whether a failed touch may have left a free page out of `drain_touched`'s reader's hints, since the last call.
    [[nodiscard]] bool take_hints_stale() noexcept { return hints_stale_.exchange(false, std::memory_order_acq_rel); }

    /// Whether pages may be other processes' (`AttachSlots::shared`).
    [[nodiscard]] bool shared() const noexcept { return file_->slots().shared(); }

    /// Pages with memory behind them, by their states: a look at each.
    [[nodiscard]] std::uint64_t present_pages() const noexcept override;
    [[nodiscard]] std::uint64_t host_faults() const noexcept { return host_faults_.load(std::memory_order_relaxed); }
    /// Pages that userfaultfd could not be made to watch again after they had been put on 2 MiB entries.
    [[nodiscard]] std::uint64_t unwatched_pages() const noexcept { return unwatched_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t recovered_pages() const noexcept { return recovered_.load(std::memory_order_relaxed); }

    /// In a child after fork: gives up what belongs to the parent. Async-signal-safe.
    void abandon_in_child() noexcept;

private:
    Presence(std::byte* address, std::unique_ptr<ArenaFile> file, PageCharges& charges, const Options& options);

    [[nodiscard]] Result<void> map();
    [[nodiscard]] std::uint64_t offset_of(PageIndex page) const noexcept { return data_offset_ + byte_offset(page); }

    bool claim_unwatched(PageRange claimed, PageIndex& blocker) noexcept;
    void charge_touch(PageIndex moving) noexcept;
    void keep_touched(PageIndex page) noexcept;
    os::SysResult<void> fill(PageRange absent, const std::atomic<bool>* cancel) noexcept;
    os::SysResult<void> fill_small(PageRange absent, const std::atomic<bool>* cancel) noexcept;
    os::SysResult<PageCount> put_zeros(PageRange absent) noexcept;
    bool make_blocks(PageRange blocks, bool next_is_claimed, const std::atomic<bool>* cancel) noexcept;

    PageRange claim_around(PageIndex page) noexcept;
    FaultAnswer fill_absent(PageIndex page) noexcept;
    std::optional<FaultAnswer> fill_in_place(PageIndex page, ArenaWord word) noexcept;
    std::optional<FaultAnswer> help_populating(PageIndex page, ArenaWord word) noexcept;
    os::SysResult<bool> zero_page(PageIndex page) noexcept;

    std::byte* const address_;
    const std::unique_ptr<ArenaFile> file_;
    PageCharges& charges_;
    const Options options_;
    const std::uint64_t data_offset_;
    const PageOwner me_;
    std::optional<PageIndex> guard_;
    ArenaWords words_;
    os::FileDescriptor uffd_;
    AtomicIntake touched_;
    std::atomic<std::uint64_t> host_faults_{0};
    std::atomic<std::uint64_t> recovered_{0};
    std::atomic<std::uint64_t> unwatched_{0};
    std::atomic<bool> hints_stale_{false};
};

}  // namespace harena
