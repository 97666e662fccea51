// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "harena/base/os/sys_result.hpp"

/// The system calls about memory. Each is one call; errors are errno values. All are async-signal-safe except
/// `find_mapping` and `numa_node_online`, and thread-safe.
namespace harena::os {

[[nodiscard]] SysResult<void*> mmap(void* address, std::size_t length, int protection, int flags, int fd,
                                    std::uint64_t offset) noexcept;
SysResult<void> munmap(void* address, std::size_t length) noexcept;
/// Moves a mapping to `to`, where it replaces what is mapped.
SysResult<void> mremap_over(void* address, std::size_t length, void* to) noexcept;
SysResult<void> mprotect(void* address, std::size_t length, int protection) noexcept;
/// Keeps whole pages in memory, present from now on. ENOMEM, EPERM, EAGAIN: RLIMIT_MEMLOCK, or no memory.
SysResult<void> mlock(void* address, std::size_t length) noexcept;
SysResult<void> munlock(void* address, std::size_t length) noexcept;
SysResult<void> madvise(void* address, std::size_t length, int advice) noexcept;

/// Advice that is newer than the headers of some systems. Source: Linux, include/uapi/asm-generic/mman-common.h.
inline constexpr int k_madv_populate_read = 22;   // Linux 5.14
inline constexpr int k_madv_populate_write = 23;  // Linux 5.14
inline constexpr int k_madv_collapse = 25;        // Linux 6.1

/// A memfd, closed on exec and, where the kernel knows the flag (6.3), never executable.
[[nodiscard]] SysResult<FileDescriptor> memfd_create(const char* name) noexcept;
/// The same on the machine's reserved 2 MiB pages. ENOTSUP, ENOSYS, EINVAL: the kernel has none of these.
[[nodiscard]] SysResult<FileDescriptor> memfd_create_hugetlb(const char* name) noexcept;
/// Whether a file is on such pages (of any size). The kernel maps those whole, whatever length is asked for.
[[nodiscard]] SysResult<bool> is_hugetlb(int fd) noexcept;
/// A file that only its mappings read, out of the kernel's own direct map, closed on exec. It is sized once, and
/// mapped shared. ENOSYS: switched off at boot, or older than Linux 5.14.
[[nodiscard]] SysResult<FileDescriptor> memfd_secret() noexcept;
SysResult<void> ftruncate(int fd, std::uint64_t length) noexcept;
SysResult<void> add_seals(int fd, int seals) noexcept;
/// Gives the file's pages in [offset, offset + length) back; they read as zero afterwards.
SysResult<void> punch_hole(int fd, std::uint64_t offset, std::uint64_t length) noexcept;
/// Gives the file memory in [offset, offset + length), which keeps its size.
SysResult<void> allocate_range(int fd, std::uint64_t offset, std::uint64_t length) noexcept;
[[nodiscard]] SysResult<std::size_t> pwrite(int fd, const void* bytes, std::size_t length,
                                            std::uint64_t offset) noexcept;
[[nodiscard]] SysResult<std::size_t> pread(int fd, void* bytes, std::size_t length, std::uint64_t offset) noexcept;
/// Writes zeros, at most 2 MiB a call. Returns how many.
[[nodiscard]] SysResult<std::size_t> write_zeros(int fd, std::size_t length, std::uint64_t offset) noexcept;

/// Writes `length` bytes that repeat `pattern`, at most 2 MiB a call. Returns how many.
[[nodiscard]] SysResult<std::size_t> write_repeated(int fd, std::span<const std::byte> pattern, std::size_t length,
                                                    std::uint64_t offset) noexcept;
/// Random bytes, at most 256, written by the kernel itself: EFAULT, and no signal, where there is no memory for them.
SysResult<void> fill_random(void* into, std::size_t length) noexcept;

/// Soft limit of an RLIMIT_* resource; RLIM_INFINITY is the largest value.
[[nodiscard]] SysResult<std::uint64_t> getrlimit(int resource) noexcept;

/// A userfaultfd for faults of user mode only, which needs no privilege.
[[nodiscard]] SysResult<FileDescriptor> userfaultfd() noexcept;
/// Agrees on the API with exactly `features` (UFFD_FEATURE_*).
SysResult<void> uffd_api(int uffd, std::uint64_t features) noexcept;
/// Faults on absent pages of the range are reported to `uffd` from now on.
SysResult<void> uffd_register_missing(int uffd, void* address, std::size_t length) noexcept;
/// They are no longer.
SysResult<void> uffd_unregister(int uffd, void* address, std::size_t length) noexcept;
/// Creates pages in the range with the bytes at `from`, as `uffd_zeropage` does: for 2 MiB pages, which that cannot.
[[nodiscard]] SysResult<std::size_t> uffd_copy(int uffd, void* to, const void* from, std::size_t length) noexcept;
/// Creates zeroed pages in the range until one is there already. Returns the bytes done, at least one page;
/// EEXIST: the first page was there. EAGAIN: try again.
[[nodiscard]] SysResult<std::size_t> uffd_zeropage(int uffd, void* address, std::size_t length) noexcept;

/// Lets this process use `barrier_on_all_threads`. Errors: ENOSYS (before Linux 4.14), EPERM (a sandbox).
SysResult<void> register_barrier() noexcept;
/// When it returns, every running thread of the process has passed a full memory barrier since it was called.
SysResult<void> barrier_on_all_threads() noexcept;

/// Lets this process use `sync_all_cores`. Errors: EINVAL (before Linux 4.16), ENOSYS, EPERM (a sandbox).
SysResult<void> register_core_sync() noexcept;
/// When it returns, every running thread of the process has executed a serialising instruction since it was called.
SysResult<void> sync_all_cores() noexcept;

/// Wants new pages of the range on NUMA node `node` (below 64); others serve if that has none.
SysResult<void> prefer_node(void* address, std::size_t length, int node) noexcept;

/// Whether `node` is an online NUMA node; on a machine that does not say, only node 0 is. Not async-signal-safe.
[[nodiscard]] bool numa_node_online(int node);
/// The number of the highest online node, plus 1; at most 64.
[[nodiscard]] unsigned numa_nodes();

/// The first line of /proc/self/maps that overlaps [begin, begin + length), as the kernel prints it, spaces folded.
[[nodiscard]] std::optional<std::string> find_mapping(std::uint64_t begin, std::uint64_t length);

}  // namespace harena::os
