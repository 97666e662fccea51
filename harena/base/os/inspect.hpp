// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "harena/base/os/sys_result.hpp"

/// Looking at files and page tables that others may have made, who may be hostile. All are thread-safe.
namespace harena::os {

/// Opens a file that may be anything: a pipe without a writer is not waited for, a terminal not acquired.
[[nodiscard]] SysResult<FileDescriptor> open_for_reading(const std::string& path) noexcept;

/// Opens a file for appending, which it creates for this user alone. One that is there must be such a file: EEXIST if
/// it is a device, has other links, is another user's, or may be written to by others; ELOOP for a symbolic link.
[[nodiscard]] SysResult<FileDescriptor> open_own_for_appending(const std::string& path) noexcept;

/// Creates a file for this user alone, to be read and written. EEXIST if there is anything of that name.
[[nodiscard]] SysResult<FileDescriptor> create_own(const std::string& path) noexcept;

struct FileFacts {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::uint64_t bytes = 0;
    /// Of memory or disk.
    std::uint64_t bytes_in_use = 0;
    bool regular = false;

    [[nodiscard]] bool same_file(const FileFacts& other) const noexcept {
        return device == other.device && inode == other.inode;
    }
};

/// Of what a path leads to, without opening it.
[[nodiscard]] SysResult<FileFacts> facts_of(const std::string& path) noexcept;
[[nodiscard]] SysResult<FileFacts> facts_of(int fd) noexcept;

/// Addresses [begin, end).
struct AddressRange {
    std::uint64_t begin;
    std::uint64_t end;
};

/// The text of this process's main program; empty if that cannot be found out.
[[nodiscard]] AddressRange program_text() noexcept;

struct HugePageScan {
    /// How many ranges were found, and where the scan ended because there was no room for more.
    std::size_t ranges;
    std::uint64_t next;
};

/// The parts of [begin, end) that are on entries of 2 MiB or more, in the process that `pagemap` (/proc/PID/pagemap) is
/// of. Errors: ENOTTY (before Linux 6.7).
[[nodiscard]] SysResult<HugePageScan> scan_huge_pages(int pagemap, std::uint64_t begin, std::uint64_t end,
                                                      std::span<AddressRange> found) noexcept;

}  // namespace harena::os
