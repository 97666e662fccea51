// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/inspect.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

namespace {

// Newer than the headers of Debian 12. Source: Linux, include/uapi/linux/fs.h.
struct PageRegion {
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t categories;
};
struct PagemapScanArgument {
    std::uint64_t size;
    std::uint64_t flags;
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t walk_end;
    std::uint64_t vec;
    std::uint64_t vec_len;
    std::uint64_t max_pages;
    std::uint64_t category_inverted;
    std::uint64_t category_mask;
    std::uint64_t category_anyof_mask;
    std::uint64_t return_mask;
};
constexpr std::uint64_t k_page_is_huge = 1U << 6;
constexpr unsigned long k_pagemap_scan = _IOWR('f', 16, PagemapScanArgument);

FileFacts facts_of(const struct stat& status) noexcept {
    return {.device = status.st_dev,
            .inode = status.st_ino,
            .bytes = static_cast<std::uint64_t>(status.st_size),
            .bytes_in_use = static_cast<std::uint64_t>(status.st_blocks) * 512,
            .regular = S_ISREG(status.st_mode)};
}

}  // namespace

SysResult<FileDescriptor> open_for_reading(const std::string& path) noexcept {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

SysResult<FileFacts> facts_of(const std::string& path) noexcept {
    struct stat status{};
    if (const auto done = detail::invoke(Call::stat, [&] { return ::stat(path.c_str(), &status); }); !done)
        return std::unexpected{done.error()};
    return facts_of(status);
}

SysResult<FileFacts> facts_of(int fd) noexcept {
    struct stat status{};
    if (const auto done = detail::invoke(Call::stat, [&] { return ::fstat(fd, &status); }); !done)
        return std::unexpected{done.error()};
    return facts_of(status);
}

SysResult<HugePageScan> scan_huge_pages(int pagemap, std::uint64_t begin, std::uint64_t end,
                                        std::span<AddressRange> found) noexcept {
    std::array<PageRegion, 64> regions;
    PagemapScanArgument argument{};
    argument.size = sizeof argument;
    argument.start = begin;
    argument.end = end;
    argument.vec = reinterpret_cast<std::uint64_t>(regions.data());
    argument.vec_len = std::min(regions.size(), found.size());
    argument.category_mask = k_page_is_huge;
    argument.return_mask = k_page_is_huge;
    if (const int error = detail::injected(Call::pagemap_scan)) return sys_fail(error);
    const int count = ::ioctl(pagemap, k_pagemap_scan, &argument);
    if (count < 0) return sys_fail(errno);
    const auto ranges = std::min(static_cast<std::size_t>(count), found.size());
    for (std::size_t i = 0; i < ranges; ++i) found[i] = {.begin = regions[i].start, .end = regions[i].end};
    return HugePageScan{.ranges = ranges, .next = argument.walk_end};
}

}  // namespace harena::os
