// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/io.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "harena/base/os/fault_injection.hpp"

namespace harena::os {

namespace {

/// Makes one system call that returns a number of bytes, unless the injector fails it first.
template <typename Function>
SysResult<std::size_t> transfer(Call call, Function&& function) noexcept {
    if (const int error = detail::injected(call)) return sys_fail(error);
    const ssize_t moved = function();
    if (moved < 0) return sys_fail(errno);
    return static_cast<std::size_t>(moved);
}

// A number that is too large for an int is too large for the kernel too.
int part_count(std::span<const iovec> parts) noexcept {
    return static_cast<int>(std::min<std::size_t>(parts.size(), INT_MAX));
}

}  // namespace

SysResult<std::size_t> read(int fd, void* into, std::size_t bytes) noexcept {
    return transfer(Call::read, [&] { return ::read(fd, into, bytes); });
}

SysResult<std::size_t> write(int fd, const void* from, std::size_t bytes) noexcept {
    return transfer(Call::write, [&] { return ::write(fd, from, bytes); });
}

SysResult<std::size_t> readv(int fd, std::span<const iovec> into) noexcept {
    return transfer(Call::readv, [&] { return ::readv(fd, into.data(), part_count(into)); });
}

SysResult<std::size_t> writev(int fd, std::span<const iovec> from) noexcept {
    return transfer(Call::writev, [&] { return ::writev(fd, from.data(), part_count(from)); });
}

SysResult<std::size_t> recv(int fd, void* into, std::size_t bytes, int flags) noexcept {
    return transfer(Call::recv, [&] { return ::recv(fd, into, bytes, flags); });
}

SysResult<std::size_t> send(int fd, const void* from, std::size_t bytes, int flags) noexcept {
    return transfer(Call::send, [&] { return ::send(fd, from, bytes, flags); });
}

SysResult<std::size_t> recvmsg(int fd, msghdr& message, int flags) noexcept {
    return transfer(Call::recvmsg, [&] { return ::recvmsg(fd, &message, flags); });
}

SysResult<std::size_t> sendmsg(int fd, const msghdr& message, int flags) noexcept {
    return transfer(Call::sendmsg, [&] { return ::sendmsg(fd, &message, flags); });
}

}  // namespace harena::os
