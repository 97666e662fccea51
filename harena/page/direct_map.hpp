// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "harena/base/bitmap.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/page/order.hpp"

namespace harena {

/// 1 TiB of pages: their descriptors take 8 GiB of addresses.
inline constexpr std::uint64_t k_max_pages = std::uint64_t{1} << 28;

struct DirectMapOptions {
    /// A multiple of a pageblock, not 0.
    PageCount capacity;
    /// The file is on the machine's reserved 2 MiB pages (hugetlbfs).
    bool hugetlb = false;
    /// New pageblocks are collapsed to one 2 MiB page where the machine can.
    bool collapse = true;
    /// How many mappings it may consist of: a process has 65,530 unless vm.max_map_count says otherwise, and the host
    /// needs some. Pages that would make more do not leave.
    std::uint64_t max_vmas = 16'384;
};

struct DirectMapStatistics {
    /// Mappings that the direct map consists of, inaccessible ones included.
    std::uint64_t vmas = 0;
    /// Bytes mapped by 2 MiB and by 4 KiB page-table entries now. What was not touched yet since it was mapped has
    /// none.
    std::uint64_t bytes_2m = 0;
    std::uint64_t bytes_4k = 0;
    /// Pageblocks of which a part left while the rest stayed, and pageblocks that became whole again.
    std::uint64_t splits = 0;
    std::uint64_t merges = 0;
    /// New pageblocks that became one 2 MiB page, and that did not.
    std::uint64_t collapsed = 0;
    std::uint64_t not_collapsed = 0;
};

/// The pool's file, and its mapping at one place: page `pfn` at `base() + 4096 * pfn`, readable and writable, or, where
/// it is not there, an inaccessible reservation. Each method is a few system calls, and none leaves an address that
/// another mapping of the process could take. Methods for different pages may run at once.
class DirectMap {
public:
    /// Makes the file and reserves the addresses; no page is there yet.
    /// Errors: EINVAL (capacity), EFBIG (RLIMIT_FSIZE), ENOMEM (address space, RLIMIT_AS, mappings), ENOTSUP (no
    /// hugetlb), EMFILE.
    [[nodiscard]] static Result<std::unique_ptr<DirectMap>> create(const DirectMapOptions& options);
    DirectMap(const DirectMap&) = delete;
    DirectMap& operator=(const DirectMap&) = delete;
    ~DirectMap();

    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    [[nodiscard]] std::byte* address(Pfn pfn) const noexcept { return base_ + byte_offset(pfn); }
    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    [[nodiscard]] bool hugetlb() const noexcept { return hugetlb_; }

    /// Maps a pageblock that is not in the pool: zero bytes, on one 2 MiB page if that can be had, and on NUMA node
    /// `node` if there is room. Errors: ENOMEM (memory, mappings, hugetlb pages): nothing is mapped.
    Result<void> grow(Pfn pageblock, std::optional<unsigned> node = std::nullopt);
    /// Gives the memory of a block back to the system: it is zero, mapped or not. Errors: that of fallocate.
    Result<void> drop(Pfn first, Order order);
    /// Takes a pageblock out of the map and gives its memory back to the system. Errors: it is mapped as before, and if
    /// its memory had gone already, zero.
    Result<void> give_back(Pfn pageblock);

    /// Takes a block out of the map: it has no address from then on. Errors: ENOMEM (mappings): it is as it was.
    Result<void> unmap(Pfn first, Order order);
    /// Puts a block back. Errors: ENOMEM (mappings): it is as it was.
    Result<void> restore(Pfn first, Order order);
    /// Writes zeros to pages through the file: they need no address. Errors: ENOMEM; then any part may be zero.
    Result<void> zero(Pfn first, std::uint32_t pages);

    void count_split() noexcept { splits_.fetch_add(1, std::memory_order_relaxed); }
    void count_merge() noexcept { merges_.fetch_add(1, std::memory_order_relaxed); }

    /// Reads the process's page tables through /proc: slow. Errors: that of reading /proc/self/smaps.
    [[nodiscard]] Result<DirectMapStatistics> statistics() const;

private:
    static constexpr int k_reservation = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

    DirectMap(os::FileDescriptor fd, std::byte* base, std::uint64_t bytes, const DirectMapOptions& options) noexcept;
    os::SysResult<void> map_file(Pfn first, std::uint64_t bytes) noexcept;
    os::SysResult<void> map_nothing(Pfn first, std::uint64_t bytes) noexcept;

    os::FileDescriptor fd_;
    std::byte* base_;
    std::uint64_t bytes_;
    std::optional<NotInherited> not_inherited_;
    bool hugetlb_;
    bool collapse_;
    /// Notes what is mapped now. With `within_budget`: ENOMEM, and nothing is noted, if that makes too many mappings.
    Result<void> set_mapped(Pfn first, std::uint64_t pages, bool mapped, bool within_budget);
    /// Of the two ends of a block: how many are between a mapped page and one that is not.
    [[nodiscard]] std::int64_t edges_round(Pfn first, std::uint64_t pages) const noexcept;

    std::uint64_t max_vmas_;
    std::mutex edges_mutex_;  // protects the next two; a leaf
    Bitmap mapped_;           // by page
    std::int64_t edges_ = 0;  // between pages of which one is mapped and the other is not

    std::atomic<std::uint64_t> splits_{0};
    std::atomic<std::uint64_t> merges_{0};
    std::atomic<std::uint64_t> collapsed_{0};
    std::atomic<std::uint64_t> not_collapsed_{0};
};

}  // namespace harena
