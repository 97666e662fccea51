// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/arena/fault_handler.hpp"
#include "harena/arena/free_ranges.hpp"
#include "harena/arena/presence.hpp"
#include "harena/arena/window.hpp"
#include "harena/base/fork.hpp"
#include "harena/base/result.hpp"
#include "harena/base/types.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace harena {

struct ArenaOptions {
    /// For messages and /proc/self/maps.
    std::string name = "arena";
    /// 1 to 1,048,576 (4 GiB).
    PageCount pages{};
    /// Address of the first page, the same for host and program: a multiple of 4096, or 0 to let the library choose.
    /// The whole arena lies in one 4 GiB-aligned window.
    UserAddress user_vm_start{};
    /// The host's touch of an absent page is SIGSEGV instead of a new page (kernel: BPF_F_SEGV_ON_FAULT).
    bool segv_on_fault = false;
    /// Pointers that a program stores keep 32 bits (kernel: BPF_F_NO_USER_CONV).
    bool no_user_conv = false;
};

struct AllocOptions {
    /// Where in the arena; null for anywhere.
    void* address = nullptr;
    /// NUMA node, or -1 for any. Only checked for being online.
    int node = -1;
};

/// Counted by a look at every page: exact when no other thread is at work.
struct ArenaStatistics {
    PageCount pages;     ///< capacity
    PageCount used;      ///< allocated by a program or the host, or touched by the host
    PageCount reserved;
    std::uint64_t host_faults = 0;     ///< touches of absent pages by the host that made a page
    std::uint64_t program_faults = 0;  ///< accesses of programs to absent pages
};

/// Sparse memory of up to 4 GiB that BPF programs and the host use with the same pointers (kernel: bpf_arena).
///
/// The host reads and writes `[data(), data() + size)` with plain pointers; a touch of an absent page gives a zeroed page.
/// System calls do not: `populate` what they are given first. Exactness of presence, fork and signals: docs/arena.md.
/// All functions are thread-safe; in a child after fork all return EOWNERDEAD.
class Arena {
public:
    static constexpr PageCount k_max_pages{Window::k_bytes / k_page_size};

    /// Errors: EINVAL (0 pages, unaligned address), E2BIG (more than 4 GiB), ERANGE (crosses a 4 GiB boundary), EEXIST
    /// (another mapping is there: named), ENOMEM, EFBIG (RLIMIT_FSIZE), ENOSYS or EPERM (no userfaultfd).
    [[nodiscard]] static Result<std::shared_ptr<Arena>> create(const ArenaOptions& options);
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    /// Gives the memory and the address space back. No thread may touch the arena any more.
    ~Arena();

    [[nodiscard]] const std::string& name() const noexcept { return options_.name; }
    /// The first byte; its value as a number is `user_vm_start()`.
    [[nodiscard]] std::byte* data() const noexcept { return presence_->address(); }
    /// In bytes.
    [[nodiscard]] std::uint64_t size() const noexcept { return harena::bytes_of(options_.pages); }
    [[nodiscard]] PageCount pages() const noexcept { return options_.pages; }
    [[nodiscard]] UserAddress user_vm_start() const noexcept { return UserAddress{reinterpret_cast<std::uint64_t>(data())}; }
    [[nodiscard]] bool no_user_conv() const noexcept { return options_.no_user_conv; }
    /// The byte behind user pointer 0: `window() + (u32)pointer` is what a program reaches.
    [[nodiscard]] std::byte* window() const noexcept { return window_.base(); }
    [[nodiscard]] bool contains(const void* address) const noexcept {
        return presence_->holds(reinterpret_cast<std::uintptr_t>(address));
    }

    /// Allocates `count` adjoining zeroed pages and returns the first one's address: where asked, or the start of the
    /// smallest sufficient free range. Errors: EINVAL (0 pages, unaligned address, node not online), E2BIG (more than the
    /// arena has), ERANGE (outside the arena), EBUSY (a page of the range is in use or reserved), ENOMEM.
    [[nodiscard]] Result<void*> alloc_pages(PageCount count, const AllocOptions& options = {});

    /// Frees pages, allocated or reserved; they read as zero when they are allocated again. All or nothing.
    /// Errors: EINVAL (null, unaligned, 0 pages, a page that is free already: named), ERANGE (outside the arena), ENOMEM or
    /// another of fallocate (the kernel would not take the memory of some pages back: those stay allocated).
    Result<void> free_pages(void* address, PageCount count);

    /// Keeps free pages out of allocation until they are freed.
    /// Errors: EINVAL (unaligned, 0 pages), ERANGE (outside the arena), EBUSY (a page is in use or reserved).
    Result<void> reserve_pages(void* address, PageCount count);

    /// Makes every page that holds a byte of [address, address + bytes) present, as a touch would: for system calls, and
    /// for threads that block SIGBUS. Errors: ERANGE (outside the arena), EFAULT (`segv_on_fault`), ENOMEM.
    Result<void> populate(const void* address, std::uint64_t bytes);

    /// EOWNERDEAD in a child after fork.
    [[nodiscard]] Result<ArenaStatistics> statistics();

    /// Called by engines for each faulting access of a program. Async-signal-safe.
    void count_program_fault() noexcept { program_faults_.fetch_add(1, std::memory_order_relaxed); }

    /// The calls as a program makes them, with exactly the results of Linux's kfuncs of these names, quirks included.
    [[nodiscard]] std::uint64_t kfunc_alloc_pages(std::uint64_t address, std::uint32_t count, std::int32_t node,
                                                  std::uint64_t flags);
    void kfunc_free_pages(std::uint64_t address, std::uint32_t count);
    [[nodiscard]] std::int32_t kfunc_reserve_pages(std::uint64_t address, std::uint32_t count);

private:
    /// An errno value where no message is made: the programs' path.
    template <typename T>
    using Outcome = std::expected<T, int>;

    Arena(const ArenaOptions& options, Window window) noexcept : options_{options}, window_{std::move(window)} {}

    [[nodiscard]] Outcome<PageIndex> allocate(std::optional<PageIndex> at, PageCount count);
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

    [[nodiscard]] Result<PageRange> checked_range(const void* address, PageCount count) const;
    /// The page of the low 32 bits of a program's pointer; far out of range if it is below the arena.
    [[nodiscard]] PageIndex page_of_low_bits(std::uint64_t address) const noexcept;
    [[nodiscard]] void* address_of(PageIndex page) const noexcept { return data() + byte_offset(page); }

    ArenaOptions options_;
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
