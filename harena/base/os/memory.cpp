// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/memory.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "harena/base/os/file.hpp"
#include "harena/base/os/invoke.hpp"
#include "harena/base/page_math.hpp"

// Newer than the headers of Debian 12 (Linux 6.1).
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

namespace harena::os {

using detail::invoke;

#ifdef SYS_memfd_secret
static constexpr long k_memfd_secret = SYS_memfd_secret;
#else
static constexpr long k_memfd_secret = 447;  // the same on all architectures
#endif

SysResult<void*> mmap(void* address, std::size_t length, int protection, int flags, int fd,
                      std::uint64_t offset) noexcept {
    if (const int error = detail::injected(Call::mmap)) return sys_fail(error);
    void* const mapped = ::mmap(address, length, protection, flags, fd, static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) return sys_fail(errno);
    return mapped;
}

SysResult<void> munmap(void* address, std::size_t length) noexcept {
    return invoke(Call::munmap, [&] { return ::munmap(address, length); });
}

SysResult<void> mremap_over(void* address, std::size_t length, void* to) noexcept {
    if (const int error = detail::injected(Call::mremap)) return sys_fail(error);
    if (::mremap(address, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) return sys_fail(errno);
    return {};
}

SysResult<void> mprotect(void* address, std::size_t length, int protection) noexcept {
    return invoke(Call::mprotect, [&] { return ::mprotect(address, length, protection); });
}

SysResult<void> mlock(void* address, std::size_t length) noexcept {
    return invoke(Call::mlock, [&] { return ::mlock(address, length); });
}

SysResult<void> munlock(void* address, std::size_t length) noexcept {
    return invoke(Call::munlock, [&] { return ::munlock(address, length); });
}

SysResult<void> madvise(void* address, std::size_t length, int advice) noexcept {
    return invoke(Call::madvise, [&] { return ::madvise(address, length, advice); });
}

SysResult<FileDescriptor> memfd_create(const char* name) noexcept {
    if (const int error = detail::injected(Call::memfd_create)) return sys_fail(error);
    int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

SysResult<FileDescriptor> memfd_create_hugetlb(const char* name) noexcept {
    if (const int error = detail::injected(Call::memfd_create)) return sys_fail(error);
    constexpr unsigned k_flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB;
    int fd = ::memfd_create(name, k_flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = ::memfd_create(name, k_flags);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

SysResult<FileDescriptor> memfd_secret() noexcept {
    if (const int error = detail::injected(Call::memfd_secret)) return sys_fail(error);
    const long fd = ::syscall(k_memfd_secret, O_CLOEXEC);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{static_cast<int>(fd)};
}

SysResult<void> fill_random(void* into, std::size_t length) noexcept {
    if (const int error = detail::injected(Call::getrandom)) return sys_fail(error);
    // Requests of up to 256 bytes are never cut short.
    if (::getrandom(into, length, 0) < 0) return sys_fail(errno);
    return {};
}

SysResult<bool> is_hugetlb(int fd) noexcept {
    struct statfs status{};
    if (const auto done = invoke(Call::stat, [&] { return ::fstatfs(fd, &status); }); !done)
        return std::unexpected{done.error()};
    return status.f_type == HUGETLBFS_MAGIC;
}

SysResult<void> ftruncate(int fd, std::uint64_t length) noexcept {
    return invoke(Call::ftruncate, [&] { return ::ftruncate(fd, static_cast<off_t>(length)); });
}

SysResult<void> add_seals(int fd, int seals) noexcept {
    return invoke(Call::add_seals, [&] { return ::fcntl(fd, F_ADD_SEALS, seals); });
}

SysResult<void> punch_hole(int fd, std::uint64_t offset, std::uint64_t length) noexcept {
    return invoke(Call::fallocate, [&] {
        return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                           static_cast<off_t>(length));
    });
}

SysResult<void> allocate_range(int fd, std::uint64_t offset, std::uint64_t length) noexcept {
    return invoke(Call::fallocate, [&] {
        return ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length));
    });
}

SysResult<std::size_t> write_repeated(int fd, std::span<const std::byte> pattern, std::size_t length,
                                      std::uint64_t offset) noexcept {
    if (const int error = detail::injected(Call::pwrite)) return sys_fail(error);
    std::array<iovec, 64> parts;
    std::size_t count = 0;
    std::size_t left = std::min(length, std::size_t{k_huge_page_size});
    while (left > 0 && count < parts.size()) {
        parts[count] = {.iov_base = const_cast<std::byte*>(pattern.data()), .iov_len = std::min(left, pattern.size())};
        left -= parts[count++].iov_len;
    }
    const ssize_t written = ::pwritev(fd, parts.data(), static_cast<int>(count), static_cast<off_t>(offset));
    if (written < 0) return sys_fail(errno);
    return static_cast<std::size_t>(written);
}

SysResult<std::size_t> write_zeros(int fd, std::size_t length, std::uint64_t offset) noexcept {
    // One buffer that stays in the cache, again and again. Constant: what nobody can write to.
    alignas(64) static constexpr std::array<std::byte, 64 * k_kib> zeros{};
    return write_repeated(fd, zeros, length, offset);
}

SysResult<std::size_t> pread(int fd, void* bytes, std::size_t length, std::uint64_t offset) noexcept {
    if (const int error = detail::injected(Call::read)) return sys_fail(error);
    const ssize_t got = ::pread(fd, bytes, length, static_cast<off_t>(offset));
    if (got < 0) return sys_fail(errno);
    return static_cast<std::size_t>(got);
}

SysResult<std::size_t> pwrite(int fd, const void* bytes, std::size_t length, std::uint64_t offset) noexcept {
    if (const int error = detail::injected(Call::pwrite)) return sys_fail(error);
    const ssize_t written = ::pwrite(fd, bytes, length, static_cast<off_t>(offset));
    if (written < 0) return sys_fail(errno);
    return static_cast<std::size_t>(written);
}

SysResult<void> register_barrier() noexcept {
    return invoke(Call::membarrier, [] {
        return static_cast<int>(::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
    });
}

SysResult<void> barrier_on_all_threads() noexcept {
    return invoke(Call::membarrier,
                  [] { return static_cast<int>(::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0)); });
}

SysResult<void> register_core_sync() noexcept {
    return invoke(Call::membarrier, [] {
        return static_cast<int>(::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    });
}

SysResult<void> sync_all_cores() noexcept {
    return invoke(Call::membarrier, [] {
        return static_cast<int>(::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    });
}

SysResult<void> prefer_node(void* address, std::size_t length, int node) noexcept {
    constexpr int k_preferred = 1;  // MPOL_PREFERRED; source: Linux, include/uapi/linux/mempolicy.h
    const std::uint64_t nodes = std::uint64_t{1} << node;
    return invoke(Call::mbind, [&] {
        return static_cast<int>(::syscall(SYS_mbind, address, length, k_preferred, &nodes, 64UL, 0U));
    });
}

SysResult<std::uint64_t> getrlimit(int resource) noexcept {
    rlimit limit{};
    if (auto ok =
            invoke(Call::getrlimit, [&] { return ::getrlimit(static_cast<__rlimit_resource_t>(resource), &limit); });
        !ok)
        return std::unexpected{ok.error()};
    return limit.rlim_cur;
}

SysResult<FileDescriptor> userfaultfd() noexcept {
    if (const int error = detail::injected(Call::userfaultfd)) return sys_fail(error);
    const long fd = ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{static_cast<int>(fd)};
}

SysResult<void> uffd_api(int uffd, std::uint64_t features) noexcept {
    uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
    return invoke(Call::uffd_api, [&] { return ::ioctl(uffd, UFFDIO_API, &api); });
}

SysResult<void> uffd_register_missing(int uffd, void* address, std::size_t length) noexcept {
    uffdio_register request{.range = {.start = reinterpret_cast<std::uint64_t>(address), .len = length},
                            .mode = UFFDIO_REGISTER_MODE_MISSING,
                            .ioctls = 0};
    return invoke(Call::uffd_register, [&] { return ::ioctl(uffd, UFFDIO_REGISTER, &request); });
}

SysResult<void> uffd_unregister(int uffd, void* address, std::size_t length) noexcept {
    uffdio_range range{.start = reinterpret_cast<std::uint64_t>(address), .len = length};
    return invoke(Call::uffd_unregister, [&] { return ::ioctl(uffd, UFFDIO_UNREGISTER, &range); });
}

SysResult<std::size_t> uffd_copy(int uffd, void* to, const void* from, std::size_t length) noexcept {
    if (const int error = detail::injected(Call::uffd_copy)) return sys_fail(error);
    uffdio_copy request{.dst = reinterpret_cast<std::uint64_t>(to),
                        .src = reinterpret_cast<std::uint64_t>(from),
                        .len = length,
                        .mode = 0,
                        .copy = 0};
    const int result = ::ioctl(uffd, UFFDIO_COPY, &request);
    if (request.copy > 0) return static_cast<std::size_t>(request.copy);  // part of it, or all
    if (result == 0) return length;
    return sys_fail(request.copy < 0 ? static_cast<int>(-request.copy) : errno);
}

SysResult<std::size_t> uffd_zeropage(int uffd, void* address, std::size_t length) noexcept {
    if (const int error = detail::injected(Call::uffd_zeropage)) return sys_fail(error);
    uffdio_zeropage request{.range = {.start = reinterpret_cast<std::uint64_t>(address), .len = length},
                            .mode = 0,
                            .zeropage = 0};
    const int result = ::ioctl(uffd, UFFDIO_ZEROPAGE, &request);
    if (request.zeropage > 0) return static_cast<std::size_t>(request.zeropage);  // part of it, or all
    if (result == 0) return length;
    return sys_fail(request.zeropage < 0 ? static_cast<int>(-request.zeropage) : errno);
}

namespace {

struct MappingLine {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

// The "begin-end" at the start of a line of /proc/self/maps.
std::optional<MappingLine> parse_mapping(std::string_view line) {
    MappingLine mapping;
    const auto dash = line.find('-');
    const auto space = line.find(' ');
    if (dash == std::string_view::npos || space == std::string_view::npos || space < dash) return std::nullopt;
    std::from_chars(line.data(), line.data() + dash, mapping.begin, 16);
    std::from_chars(line.data() + dash + 1, line.data() + space, mapping.end, 16);
    return mapping;
}

std::string fold_spaces(std::string_view line) {
    std::string folded;
    for (const char c : line)
        if (c != ' ' || folded.empty() || folded.back() != ' ') folded += c;
    return folded;
}

}  // namespace

bool numa_node_online(int node) {
    // A list of numbers and ranges: "0-1,4".
    static const std::string online = [] {
        const auto file = read_file("/sys/devices/system/node/online");
        return file ? std::string{reinterpret_cast<const char*>(file->data()), file->size()} : std::string{"0"};
    }();
    const char* at = online.data();
    const char* const end = at + online.size();
    while (at < end) {
        int first = -1;
        at = std::from_chars(at, end, first).ptr;
        int last = first;
        if (at < end && *at == '-') at = std::from_chars(at + 1, end, last).ptr;
        if (first >= 0 && first <= node && node <= last) return true;
        ++at;
    }
    return false;
}

unsigned numa_nodes() {
    unsigned nodes = 1;
    for (int node = 1; node < 64; ++node)
        if (numa_node_online(node)) nodes = static_cast<unsigned>(node) + 1;
    return nodes;
}

std::optional<std::string> find_mapping(std::uint64_t begin, std::uint64_t length) {
    const auto maps = read_file("/proc/self/maps");
    if (!maps) return std::nullopt;
    std::string_view rest{reinterpret_cast<const char*>(maps->data()), maps->size()};
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const auto mapping = parse_mapping(line);
        if (mapping && mapping->begin < begin + length && begin < mapping->end) return fold_spaces(line);
    }
    return std::nullopt;
}

}  // namespace harena::os
