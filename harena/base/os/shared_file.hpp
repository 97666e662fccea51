// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "harena/base/os/sys_result.hpp"

/// The system calls about files that processes share. Each is one call; errors are errno values. All are thread-safe.
namespace harena::os {

/// Opens what a path leads to for reading and writing, as an open file description of its own.
[[nodiscard]] SysResult<FileDescriptor> open_for_sharing(const std::string& path) noexcept;

/// The seals (F_SEAL_*) of a memfd. Errors: EINVAL (no memfd).
[[nodiscard]] SysResult<int> get_seals(int fd) noexcept;

/// Which pages of a mapping have memory in its file or are mapped: one byte a page, bit 0. Async-signal-safe.
SysResult<void> mincore(void* address, std::size_t length, unsigned char* present) noexcept;

/// Takes a lock that belongs to the open file description of `fd`, on the byte at `offset`, which need not exist. It is
/// gone when the last descriptor of that description is closed. Errors: EAGAIN (another description has it).
SysResult<void> lock_byte(int fd, std::uint64_t offset) noexcept;
SysResult<void> unlock_byte(int fd, std::uint64_t offset) noexcept;
/// Whether another description than that of `fd` has the lock. Async-signal-safe.
[[nodiscard]] SysResult<bool> byte_is_locked(int fd, std::uint64_t offset) noexcept;

SysResult<void> symlink(const std::string& target, const std::string& path) noexcept;
/// What a symbolic link points to. Errors: EINVAL (no link), ENOENT.
[[nodiscard]] SysResult<std::string> readlink(const std::string& path);
SysResult<void> unlink(const std::string& path) noexcept;
/// Who owns the file or, where `path` is a symbolic link, the link.
[[nodiscard]] SysResult<uid_t> owner_of(const std::string& path) noexcept;
[[nodiscard]] uid_t user_id() noexcept;

}  // namespace harena::os
