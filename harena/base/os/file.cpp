// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

namespace {

SysResult<FileDescriptor> open_file(const std::string& path, int flags) noexcept {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    int fd = -1;
    do {
        fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

}  // namespace

SysResult<std::vector<std::byte>> read_file(const std::string& path, std::size_t max_bytes) {
    auto file = open_file(path, O_RDONLY);
    if (!file) return std::unexpected{file.error()};
    std::vector<std::byte> bytes;
    std::size_t used = 0;
    for (;;) {
        // Files of /proc have no size to ask for: grow as long as there is more.
        if (used == bytes.size()) bytes.resize(std::max<std::size_t>(64 * 1024, bytes.size() * 2));
        if (const int error = detail::injected(Call::read)) return sys_fail(error);
        const ssize_t got = ::read(file->get(), bytes.data() + used, bytes.size() - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sys_fail(errno);
        if (got == 0) break;
        used += static_cast<std::size_t>(got);
        if (used > max_bytes) return sys_fail(EFBIG);
    }
    bytes.resize(used);
    return bytes;
}

SysResult<void> write_file(const std::string& path, std::span<const std::byte> bytes) {
    auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file) return std::unexpected{file.error()};
    while (!bytes.empty()) {
        if (const int error = detail::injected(Call::write)) return sys_fail(error);
        const ssize_t put = ::write(file->get(), bytes.data(), bytes.size());
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return sys_fail(errno);
        bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
}

}  // namespace harena::os
