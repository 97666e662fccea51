// SPDX-License-Identifier: Apache-2.0
//
// System calls on arena memory: populate, then call.
#include <algorithm>
#include <cerrno>

#include "harena/arena/arena.hpp"
#include "harena/base/os/io.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

namespace {

/// What the kernel moves by one call at most (kernel: MAX_RW_COUNT): no more needs to be populated.
constexpr std::size_t k_max_transfer = 0x7fff'f000;

Result<std::size_t> checked(const os::SysResult<std::size_t>& moved, std::string_view call, int fd) {
    if (!moved) return os::fail_with(moved.error(), fmt::format("{} of descriptor {} on arena memory", call, fd));
    return *moved;
}

}  // namespace

bool Arena::overlaps(const void* address, std::uint64_t bytes) const noexcept {
    const auto at = reinterpret_cast<std::uint64_t>(address);
    const std::uint64_t begin = user_vm_start().value();
    return bytes != 0 && (at < begin ? bytes > begin - at : at - begin < size());
}

Result<std::size_t> Arena::populate_buffer(const void* buffer, std::size_t bytes) {
    if (bytes == 0) HARENA_CHECK_OK(populate(data(), 0));  // EOWNERDEAD, if anything
    const std::size_t count = contains(buffer, bytes) ? std::min(bytes, k_max_transfer) : bytes;
    if (count != 0) HARENA_CHECK_OK(populate(buffer, count));  // refuses what is not all inside
    return count;
}

Result<std::size_t> Arena::read(int fd, void* into, std::size_t bytes) {
    HARENA_TRY(const std::size_t count, populate_buffer(into, bytes));
    return checked(os::read(fd, into, count), "read", fd);
}

Result<std::size_t> Arena::write(int fd, const void* from, std::size_t bytes) {
    HARENA_TRY(const std::size_t count, populate_buffer(from, bytes));
    return checked(os::write(fd, from, count), "write", fd);
}

Result<std::size_t> Arena::pread(int fd, void* into, std::size_t bytes, std::uint64_t offset) {
    HARENA_TRY(const std::size_t count, populate_buffer(into, bytes));
    return checked(os::pread(fd, into, count, offset), "pread", fd);
}

Result<std::size_t> Arena::pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t offset) {
    HARENA_TRY(const std::size_t count, populate_buffer(from, bytes));
    return checked(os::pwrite(fd, from, count, offset), "pwrite", fd);
}

Result<std::size_t> Arena::recv(int fd, void* into, std::size_t bytes, int flags) {
    HARENA_TRY(const std::size_t count, populate_buffer(into, bytes));
    return checked(os::recv(fd, into, count, flags), "recv", fd);
}

Result<std::size_t> Arena::send(int fd, const void* from, std::size_t bytes, int flags) {
    HARENA_TRY(const std::size_t count, populate_buffer(from, bytes));
    return checked(os::send(fd, from, count, flags), "send", fd);
}

Result<void> Arena::populate_parts(std::span<const iovec> parts) {
    HARENA_CHECK_OK(populate(data(), 0));  // in a child after fork, also if there is nothing in the arena
    if (overlaps(parts.data(), parts.size_bytes()))
        return fail(EINVAL, "the list of parts at {} is in arena '{}' itself", fmt::ptr(parts.data()), name());
    for (const iovec& part : parts)
        if (overlaps(part.iov_base, part.iov_len)) HARENA_CHECK_OK(populate(part.iov_base, part.iov_len));
    return {};
}

Result<void> Arena::populate_message(const msghdr& message) {
    if (overlaps(&message, sizeof message))
        return fail(EINVAL, "the message at {} is in arena '{}' itself", fmt::ptr(&message), name());
    HARENA_CHECK_OK(populate_parts({message.msg_iov, message.msg_iovlen}));
    if (overlaps(message.msg_name, message.msg_namelen))
        HARENA_CHECK_OK(populate(message.msg_name, message.msg_namelen));
    if (overlaps(message.msg_control, message.msg_controllen))
        HARENA_CHECK_OK(populate(message.msg_control, message.msg_controllen));
    return {};
}

Result<std::size_t> Arena::readv(int fd, std::span<const iovec> into) {
    HARENA_CHECK_OK(populate_parts(into));
    return checked(os::readv(fd, into), "readv", fd);
}

Result<std::size_t> Arena::writev(int fd, std::span<const iovec> from) {
    HARENA_CHECK_OK(populate_parts(from));
    return checked(os::writev(fd, from), "writev", fd);
}

Result<std::size_t> Arena::recvmsg(int fd, msghdr& message, int flags) {
    HARENA_CHECK_OK(populate_message(message));
    return checked(os::recvmsg(fd, message, flags), "recvmsg", fd);
}

Result<std::size_t> Arena::sendmsg(int fd, const msghdr& message, int flags) {
    HARENA_CHECK_OK(populate_message(message));
    return checked(os::sendmsg(fd, message, flags), "sendmsg", fd);
}

}  // namespace harena
