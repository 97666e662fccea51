// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "harena/arena/arena.hpp"
#include "harena/base/fork.hpp"
#include "harena/base/result.hpp"
#include "harena/base/types.hpp"
#include "harena/bpf/map.hpp"
#include "harena/kernel/arena_calls.hpp"
#include "harena/kernel/arena_map.hpp"

namespace harena::kernel {

/// An arena in the kernel, mapped into this process.
///
/// The host's allocations are made by the kernel's calls, whose answers are less exact than `Arena`'s errors: what can
/// be checked here is checked here. That of `free_pages` is not atomic with the freeing.
class KernelArena final : public Arena {
public:
    /// Errors: those of `ArenaMapping::create` and `ArenaCalls::create`.
    [[nodiscard]] static Result<std::shared_ptr<KernelArena>> create(const bpf::MapDefinition& definition);
    KernelArena(const KernelArena&) = delete;
    KernelArena& operator=(const KernelArena&) = delete;
    ~KernelArena() override { end_heap(); }

    [[nodiscard]] int fd() const noexcept { return mapping_.fd(); }

    [[nodiscard]] Result<void*> alloc_pages(PageCount count, const AllocOptions& options = {}) override;
    Result<void> free_pages(void* address, PageCount count) override;
    Result<void> reserve_pages(void* address, PageCount count) override;
    Result<void> populate(const void* address, std::uint64_t bytes) override;
    /// ENOTSUP: Linux's arenas are on pages of 4 KiB, and do not say whose a page is.
    Result<void> promote(void* address, PageCount count) override;
    [[nodiscard]] Result<std::vector<ArenaRange>> snapshot() override;
    /// `used` are the pages that have memory. Linux does not tell how many are reserved, nor counts faults: 0.
    [[nodiscard]] Result<ArenaStatistics> statistics() override;

    /// Whether each page of a range has memory. ENOTSUP on a kernel that does not let programs see that.
    [[nodiscard]] Result<std::vector<bool>> present(PageRange pages);

    /// The address in the kernel of the byte of user pointer 0, as `PresenceProbe` gives it.
    [[nodiscard]] Result<std::uint64_t> kernel_base();

private:
    [[nodiscard]] Result<const PresenceProbe*> probe();
    KernelArena(const ArenaOptions& options, ArenaMapping mapping, ArenaCalls calls)
        : Arena{options}, mapping_{std::move(mapping)}, calls_{std::move(calls)} {
        set_data(mapping_.data());
    }

    ArenaMapping mapping_;
    ArenaCalls calls_;
    ForkGuard fork_guard_;
    std::mutex mutex_;                            // protects the probe's making; a leaf of the lock order
    std::optional<Result<PresenceProbe>> probe_;  // made when it is first needed, then unchanged
};

}  // namespace harena::kernel
