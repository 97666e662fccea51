// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <span>

#include "harena/base/os/sys_result.hpp"

/// Reading and writing descriptors: each function makes its call once and returns how many bytes were moved, or the
/// call's error, EINTR too. Thread-safe. `pread` and `pwrite` are in memory.hpp.
namespace harena::os {

[[nodiscard]] SysResult<std::size_t> read(int fd, void* into, std::size_t bytes) noexcept;
[[nodiscard]] SysResult<std::size_t> write(int fd, const void* from, std::size_t bytes) noexcept;
/// EINVAL for more parts than the kernel takes (1024).
[[nodiscard]] SysResult<std::size_t> readv(int fd, std::span<const iovec> into) noexcept;
[[nodiscard]] SysResult<std::size_t> writev(int fd, std::span<const iovec> from) noexcept;
[[nodiscard]] SysResult<std::size_t> recv(int fd, void* into, std::size_t bytes, int flags) noexcept;
[[nodiscard]] SysResult<std::size_t> send(int fd, const void* from, std::size_t bytes, int flags) noexcept;
[[nodiscard]] SysResult<std::size_t> recvmsg(int fd, msghdr& message, int flags) noexcept;
[[nodiscard]] SysResult<std::size_t> sendmsg(int fd, const msghdr& message, int flags) noexcept;

}  // namespace harena::os
