// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/shared_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <climits>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

using detail::invoke;

namespace {

struct flock one_byte(short type, std::uint64_t offset) noexcept {
    struct flock lock{};  // l_pid must be 0
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(offset);
    lock.l_len = 1;
    return lock;
}

}  // namespace

SysResult<FileDescriptor> open_for_sharing(const std::string& path) noexcept {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

SysResult<int> get_seals(int fd) noexcept {
    if (const int error = detail::injected(Call::get_seals)) return sys_fail(error);
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0) return sys_fail(errno);
    return seals;
}

SysResult<void> mincore(void* address, std::size_t length, unsigned char* present) noexcept {
    return invoke(Call::mincore, [&] { return ::mincore(address, length, present); });
}

SysResult<void> lock_byte(int fd, std::uint64_t offset) noexcept {
    return invoke(Call::file_lock, [&] {
        struct flock lock = one_byte(F_WRLCK, offset);
        return ::fcntl(fd, F_OFD_SETLK, &lock);
    });
}

SysResult<void> unlock_byte(int fd, std::uint64_t offset) noexcept {
    return invoke(Call::file_lock, [&] {
        struct flock lock = one_byte(F_UNLCK, offset);
        return ::fcntl(fd, F_OFD_SETLK, &lock);
    });
}

SysResult<bool> byte_is_locked(int fd, std::uint64_t offset) noexcept {
    struct flock lock = one_byte(F_WRLCK, offset);
    if (const auto asked = invoke(Call::file_lock, [&] { return ::fcntl(fd, F_OFD_GETLK, &lock); }); !asked)
        return std::unexpected{asked.error()};
    return lock.l_type != F_UNLCK;
}

SysResult<void> symlink(const std::string& target, const std::string& path) noexcept {
    return invoke(Call::symlink, [&] { return ::symlink(target.c_str(), path.c_str()); });
}

SysResult<std::string> readlink(const std::string& path) {
    if (const int error = detail::injected(Call::read)) return sys_fail(error);
    std::array<char, PATH_MAX> target;
    const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
    if (length < 0) return sys_fail(errno);
    return std::string{target.data(), static_cast<std::size_t>(length)};
}

SysResult<void> unlink(const std::string& path) noexcept {
    return invoke(Call::unlink, [&] { return ::unlink(path.c_str()); });
}

SysResult<uid_t> owner_of(const std::string& path) noexcept {
    struct stat status{};
    if (const auto done = invoke(Call::stat, [&] { return ::lstat(path.c_str(), &status); }); !done)
        return std::unexpected{done.error()};
    return status.st_uid;
}

uid_t user_id() noexcept { return ::geteuid(); }

}  // namespace harena::os
