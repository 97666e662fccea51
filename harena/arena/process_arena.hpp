// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harena/arena/arena.hpp"
#include "harena/arena/fault_handler.hpp"
#include "harena/arena/page_allocator.hpp"
#include "harena/arena/page_charges.hpp"
#include "harena/arena/presence.hpp"
#include "harena/arena/window.hpp"
#include "harena/base/fork.hpp"

namespace harena {

/// An arena of this process, which other processes may have, too: no privileges needed, its programs run in the process
/// engine.
class ProcessArena final : public Arena {
public:
    /// Errors: EINVAL (0 pages, unaligned address, a granule that cannot be), E2BIG (more than 4 GiB), ERANGE (crosses
    /// a 4 GiB boundary), EEXIST (another mapping is there: named), ENOMEM, EFBIG (RLIMIT_FSIZE), EMFILE; ENOSYS or
    /// EPERM (no userfaultfd, and `exact_presence`, `segv_on_fault` or `strict_reserve` is asked for).
    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> create(const ArenaOptions& options);

    /// Takes part in another process's arena, at the same address: `path` leads to its file, such as /proc/PID/fd/N.
    /// Errors: ENOENT, EACCES, EINVAL (that is no arena's file), EBUSY (the address is taken here: named), EUSERS (255
    /// processes have it), ENOMEM, EMFILE, ENOSYS or EPERM (no userfaultfd, and the arena is a watched one).
    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> attach(const std::string& path,
                                                                      const AttachOptions& options = {});
    /// The same for a descriptor from `share_fd`, received over a socket. It stays the caller's.
    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> attach(int fd, const AttachOptions& options = {});
    /// The same for a name that the arena was published under. EPERM: the name is another user's.
    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> attach_published(std::string_view name,
                                                                                const AttachOptions& options = {});

    ProcessArena(const ProcessArena&) = delete;
    ProcessArena& operator=(const ProcessArena&) = delete;
    ~ProcessArena() override;

    /// A descriptor to be sent to another process, which can then do everything with the arena's contents and pages.
    /// Errors: EMFILE, ENOENT (no /proc).
    [[nodiscard]] Result<os::FileDescriptor> share_fd();
    /// Makes the arena findable as `name` (letters, digits, '.', '-', '_'), for processes of this user and root, as
    /// long as this object lives: a link in /dev/shm. Errors: EINVAL (name), EEXIST (an arena that lives has it), EBUSY
    /// (this one has another name), EACCES, ENOENT.
    [[nodiscard]] Result<void> publish(std::string_view name);

    /// The byte behind user pointer 0: `window() + (u32)pointer` is what a program reaches.
    [[nodiscard]] std::byte* window() const noexcept { return window_.base(); }

    [[nodiscard]] Result<void*> alloc_pages(PageCount count, const AllocOptions& options = {}) override;
    Result<void> free_pages(void* address, PageCount count) override;
    Result<void> reserve_pages(void* address, PageCount count) override;
    Result<void> populate(const void* address, std::uint64_t bytes) override;
    Result<void> promote(void* address, PageCount count) override;
    [[nodiscard]] Result<ArenaStatistics> statistics() override;
    [[nodiscard]] Result<std::vector<ArenaRange>> snapshot() override;

    /// Changes `ArenaTuning::recycle`; pages above it lose their memory at once.
    Result<void> set_recycle(PageCount count);
    /// Puts in order what processes left that have died. Others do so when they meet it. Returns how many pages.
    Result<PageCount> recover();

    /// Whether touches are seen by userfaultfd. If not, a program's access must ask `has_memory` first.
    [[nodiscard]] bool watched() const noexcept { return presence_->geometry().watched; }
    /// Whether all bytes that a program reaches at window offset `offset` (may be negative, or beyond the window) have
    /// memory.
    [[nodiscard]] bool has_memory(std::int64_t offset, unsigned bytes) noexcept;

    /// Called by engines for each faulting access of a program. Async-signal-safe.
    void count_program_fault() noexcept { program_faults_.fetch_add(1, std::memory_order_relaxed); }

    /// What a program's allocations are charged to. Errors: ENOMEM, EUSERS.
    using Payer = PageCharges::Id;
    [[nodiscard]] Result<Payer> payer(const std::shared_ptr<PageAccount>& caller);
    /// Of programs that have no account of their own.
    [[nodiscard]] Payer default_payer() const noexcept { return default_payer_; }

    /// The calls as a program makes them, with exactly the results of Linux's kfuncs of these names, quirks included.
    /// Once `cancel` is set, an allocation gives up and a free leaves the rest allocated: the program is over its time.
    [[nodiscard]] std::uint64_t kfunc_alloc_pages(std::uint64_t address, std::uint32_t count, std::int32_t node,
                                                  std::uint64_t flags, const std::atomic<bool>* cancel = nullptr) {
        return kfunc_alloc_pages_for(default_payer_, address, count, node, flags, cancel);
    }
    [[nodiscard]] std::uint64_t kfunc_alloc_pages_for(Payer payer, std::uint64_t address, std::uint32_t count,
                                                      std::int32_t node, std::uint64_t flags,
                                                      const std::atomic<bool>* cancel = nullptr);
    void kfunc_free_pages(std::uint64_t address, std::uint32_t count, const std::atomic<bool>* cancel = nullptr);
    [[nodiscard]] std::int32_t kfunc_reserve_pages(std::uint64_t address, std::uint32_t count);

private:
    ProcessArena(const ArenaOptions& options, Window window);

    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> begin(ArenaOptions options, bool hugetlb);
    [[nodiscard]] static Result<std::shared_ptr<ProcessArena>> take_part(std::unique_ptr<ArenaFile> file,
                                                                         const AttachOptions& options);
    /// Checks `options.tuning`, and makes it what `exact_presence` says. EINVAL.
    [[nodiscard]] static Result<void> tune(ArenaOptions& options);
    /// Maps the file and makes the arena known. `fresh`: nobody had it before.
    [[nodiscard]] Result<void> start(std::unique_ptr<ArenaFile> file, bool fresh);

    /// The page of the low 32 bits of a program's pointer; far out of range if it is below the arena.
    [[nodiscard]] PageIndex page_of_low_bits(std::uint64_t address) const noexcept;
    [[nodiscard]] std::unexpected<Error> no_pages(int error, PageCount count, const void* address,
                                                  const PageAccount* payer) const;

    Window window_;
    PageCharges charges_;
    Payer default_payer_ = 0;
    std::unique_ptr<Presence> presence_;
    std::unique_ptr<PageAllocator> allocator_;
    std::optional<fault_handler::Regions::Handle> region_;
    ForkGuard fork_guard_;
    std::atomic<std::uint64_t> program_faults_{0};

    std::mutex mutex_;  // protects published_
    std::string published_;
};

}  // namespace harena
