// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>

#include "harena/arena/arena.hpp"
#include "harena/arena/fault_handler.hpp"
#include "harena/arena/free_ranges.hpp"
#include "harena/arena/presence.hpp"
#include "harena/arena/window.hpp"
#include "harena/base/fork.hpp"

namespace harena {

/// An arena of this process: no privileges needed, its programs run in the process engine.
class ProcessArena final : public Arena {
public:
    /// Errors: EINVAL (0 pages, unaligned address), E2BIG (more than 4 GiB), ERANGE (crosses a 4 GiB boundary), EEXIST
    /// (another mapping is there: named), ENOMEM, EFBIG (RLIMIT_FSIZE), ENOSYS or EPERM (no userfaultfd).
    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> create(const ArenaOptions& options);
    ProcessArena(const ProcessArena&) = delete;
    ProcessArena& operator=(const ProcessArena&) = delete;
    ~ProcessArena() override;

    /// The byte behind user pointer 0: `window() + (u32)pointer` is what a program reaches.
    [[nodiscard]] std::byte* window() const noexcept { return window_.base(); }

    [[nodiscard]] Result<void*> alloc_pages(PageCount count, const AllocOptions& options = {}) override;
    Result<void> free_pages(void* address, PageCount count) override;
    Result<void> reserve_pages(void* address, PageCount count) override;
    Result<void> populate(const void* address, std::uint64_t bytes) override;
    [[nodiscard]] Result<ArenaStatistics> statistics() override;

    /// Called by engines for each faulting access of a program. Async-signal-safe.
    void count_program_fault() noexcept { program_faults_.fetch_add(1, std::memory_order_relaxed); }

    /// The calls as a program makes them, with exactly the results of Linux's kfuncs of these names, quirks included.
    /// Once `cancel` is set, an allocation gives up and a free leaves the rest allocated: the program is over its time.
    [[nodiscard]] std::uint64_t kfunc_alloc_pages(std::uint64_t address, std::uint32_t count, std::int32_t node,
                                                  std::uint64_t flags, const std::atomic<bool>* cancel = nullptr);
    void kfunc_free_pages(std::uint64_t address, std::uint32_t count, const std::atomic<bool>* cancel = nullptr);
    [[nodiscard]] std::int32_t kfunc_reserve_pages(std::uint64_t address, std::uint32_t count);

private:
    /// An errno value where no message is made: the programs' path.
    template <typename T>
    using Outcome = std::expected<T, int>;

    ProcessArena(const ArenaOptions& options, Window window)
        : Arena{options}, window_{std::move(window)}, free_{options.pages} {}

    [[nodiscard]] Outcome<PageIndex> allocate(std::optional<PageIndex> at, PageCount count,
                                              const std::atomic<bool>* cancel = nullptr);
    [[nodiscard]] Outcome<PageRange> claim_free(std::optional<PageIndex> at, PageCount count);
    /// Frees what is used or reserved in `range`, in batches. An error: some of it stays allocated.
    Outcome<void> release(PageRange range);
    Outcome<void> release_run(PageRange freeing);
    /// Makes pages that this thread moved to `populating` or `freeing`, and that have no memory, absent and free.
    void give_back(PageRange range);
    [[nodiscard]] Outcome<void> reserve(PageRange range);

    void refresh_hints();
    void rebuild_hints();
    void drain_touched() noexcept;
    void give_hint(PageRange range) noexcept;
    void take_hint(PageRange range) noexcept;
    void forget_hints() noexcept;

    /// The page of the low 32 bits of a program's pointer; far out of range if it is below the arena.
    [[nodiscard]] PageIndex page_of_low_bits(std::uint64_t address) const noexcept;

    Window window_;
    std::unique_ptr<Presence> presence_;
    std::optional<fault_handler::Regions::Handle> region_;
    ForkGuard fork_guard_;
    std::atomic<std::uint64_t> program_faults_{0};

    std::mutex mutex_;  // protects the hints; never held at a system call or while an arena page is touched
    // Invariant, under the mutex: every absent page is in `free_` unless `hints_stale_`, or is on its way there from
    // `release_run`. A page in `free_` may be no longer absent: the host touched it and it is not drained yet.
    FreeRanges free_;
    bool hints_stale_ = true;
};

}  // namespace harena
