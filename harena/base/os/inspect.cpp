// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/inspect.hpp"

#include <fcntl.h>
#include <link.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

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

SysResult<FileDescriptor> create_own(const std::string& path) noexcept {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    constexpr mode_t k_owner_only = 0600;
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, k_owner_only);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

SysResult<FileDescriptor> open_own_for_appending(const std::string& path) noexcept {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    constexpr int k_flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    constexpr mode_t k_owner_only = 0600;
    FileDescriptor file{::open(path.c_str(), k_flags | O_CREAT | O_EXCL, k_owner_only)};
    if (file.get() >= 0) return file;
    if (errno != EEXIST) return sys_fail(errno);
    file = FileDescriptor{::open(path.c_str(), k_flags)};
    if (file.get() < 0) return sys_fail(errno);
    struct stat status{};
    if (const auto done = detail::invoke(Call::stat, [&] { return ::fstat(file.get(), &status); }); !done)
        return std::unexpected{done.error()};
    const bool own = S_ISREG(status.st_mode) && status.st_uid == ::geteuid() && status.st_nlink == 1 &&
                     (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    if (!own) return sys_fail(EEXIST);
    return file;
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

AddressRange program_text() noexcept {
    AddressRange text{.begin = 0, .end = 0};
    // The first object is the program itself.
    ::dl_iterate_phdr(
        [](dl_phdr_info* object, std::size_t, void* found) {
            auto& range = *static_cast<AddressRange*>(found);
            for (int i = 0; i < object->dlpi_phnum; ++i) {
                const auto& segment = object->dlpi_phdr[i];
                if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
                const std::uint64_t begin = object->dlpi_addr + segment.p_vaddr;
                range.begin = range.begin == 0 ? begin : std::min(range.begin, begin);
                range.end = std::max(range.end, begin + segment.p_memsz);
            }
            return 1;
        },
        &text);
    return text;
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
