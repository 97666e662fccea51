// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string_view>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

/// What the tests of all layers share.
namespace harena::test {

// Sanitizers make mappings of their own, at times of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool k_sanitizer = true;
#else
inline constexpr bool k_sanitizer = false;
#endif

/// Whether `result` is an error with `code` whose sentence has `part` in it.
template <typename T>
testing::AssertionResult refused(const Result<T>& result, int code, std::string_view part) {
    if (result) return testing::AssertionFailure() << "no error";
    if (result.error().code() != code || result.error().message().find(part) == std::string::npos)
        return testing::AssertionFailure() << result.error().code() << ": " << result.error().message();
    return testing::AssertionSuccess();
}

/// Whether there is no error; a failed test with its sentence if there is one.
template <typename T>
bool ok(const Result<T>& result) {
    if (!result) ADD_FAILURE() << result.error().message();
    return result.has_value();
}

inline bool is_zero(const std::byte* at, std::uint64_t bytes) {
    return *at == std::byte{0} && std::memcmp(at, at + 1, bytes - 1) == 0;
}

/// Writes to every page, at its begin and its end.
inline void scribble(std::byte* at, std::uint64_t bytes) {
    for (std::uint64_t page = 0; page < bytes; page += k_page_size) {
        std::memset(at + page, 0xa5, 64);
        std::memset(at + page + k_page_size - 64, 0x5a, 64);
    }
}

/// Whether the kernel can read, or write, a byte there for us.
inline bool readable(const void* at) {
    std::array<int, 2> pipe{-1, -1};
    if (::pipe(pipe.data()) != 0) return false;
    const bool read = ::write(pipe[1], at, 1) == 1;
    ::close(pipe[0]);
    ::close(pipe[1]);
    return read;
}
inline bool writable(void* at) {
    std::array<int, 2> pipe{-1, -1};
    if (::pipe(pipe.data()) != 0) return false;
    const bool written = ::write(pipe[1], "w", 1) == 1 && ::read(pipe[0], at, 1) == 1;
    ::close(pipe[0]);
    ::close(pipe[1]);
    return written;
}

/// Runs `body` in a child after fork: whether no expectation failed there. What failed, the child prints.
template <typename Body>
bool holds_in_child(Body&& body) {
    (void)std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);  // a child that waits for a lock of its parent's threads ends
        body();
        (void)std::fflush(nullptr);
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_FALSE(WIFSIGNALED(status)) << "the child was ended by signal " << WTERMSIG(status);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// How many lines of /proc/self/maps have `text` in them; all, without one.
inline std::size_t count_mappings(std::string_view text = {}) {
    const auto file = os::read_file("/proc/self/maps");
    if (!file) return 0;
    std::string_view rest{reinterpret_cast<const char*>(file->data()), file->size()};
    std::size_t count = 0;
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        count += line.find(text) == std::string_view::npos ? 0U : 1U;
    }
    return count;
}

inline std::size_t open_descriptors() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) ++count;
    return count;
}

/// Bytes of memory that a file has.
inline std::uint64_t bytes_in_use(int fd) {
    struct stat status{};
    return ::fstat(fd, &status) == 0 ? static_cast<std::uint64_t>(status.st_blocks) * 512 : ~0ULL;
}

}  // namespace harena::test
