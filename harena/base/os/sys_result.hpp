// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <expected>
#include <utility>

#include "harena/base/result.hpp"

namespace harena::os {

/// A failed system call's errno value. Carries no text: it is made in signal handlers too.
struct SysError {
    int code;
};

template <typename T>
using SysResult = std::expected<T, SysError>;

[[nodiscard]] inline std::unexpected<SysError> sys_fail(int code) noexcept { return std::unexpected{SysError{code}}; }

/// errno's name and text: "ENOMEM, Cannot allocate memory".
[[nodiscard]] std::string describe(SysError error);

/// The `Error` of a failed system call: "<what>: ENOMEM, Cannot allocate memory". Throws nothing.
[[nodiscard]] std::unexpected<Error> fail_with(SysError error, std::string_view what);

/// Owns a file descriptor.
class FileDescriptor {
public:
    FileDescriptor() noexcept = default;
    explicit FileDescriptor(int fd) noexcept : fd_{fd} {}
    FileDescriptor(FileDescriptor&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    FileDescriptor(const FileDescriptor&) = delete;
    FileDescriptor& operator=(const FileDescriptor&) = delete;
    ~FileDescriptor() { reset(); }

    /// -1 if it owns none.
    [[nodiscard]] int get() const noexcept { return fd_; }
    /// Closes it. Async-signal-safe.
    void reset() noexcept;

    /// Forgets it without closing it: a child after fork, where it was closed before.
    void release() noexcept { fd_ = -1; }

private:
    int fd_ = -1;
};

}  // namespace harena::os
