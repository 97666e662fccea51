// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/page/page_pool.hpp"

namespace harena::test {

inline std::unique_ptr<PagePool> make_pool(PageCount capacity) {
    auto pool = PagePool::create({.capacity = capacity, .nodes = 1});
    EXPECT_TRUE(pool) << pool.error().message();
    return pool ? std::move(*pool) : nullptr;
}

/// Whether `result` is an error with `code` whose sentence has `part` in it.
template <typename T>
testing::AssertionResult refused(const Result<T>& result, int code, std::string_view part) {
    if (result) return testing::AssertionFailure() << "no error";
    if (result.error().code() != code || result.error().message().find(part) == std::string::npos)
        return testing::AssertionFailure() << result.error().code() << ": " << result.error().message();
    return testing::AssertionSuccess();
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

/// Whether the kernel can read a byte there for us.
inline bool readable(const void* at) {
    std::array<int, 2> pipe{-1, -1};
    if (::pipe(pipe.data()) != 0) return false;
    const bool read = ::write(pipe[1], at, 1) == 1;
    ::close(pipe[0]);
    ::close(pipe[1]);
    return read;
}

/// Lines of /proc/self/maps.
inline std::size_t mappings() {
    const auto maps = os::read_file("/proc/self/maps");
    return maps ? static_cast<std::size_t>(std::ranges::count(*maps, std::byte{'\n'})) : 0;
}

/// Bytes of memory that a file has.
inline std::uint64_t bytes_in_use(int fd) {
    struct stat status{};
    return ::fstat(fd, &status) == 0 ? static_cast<std::uint64_t>(status.st_blocks) * 512 : ~0ULL;
}

/// A thread that lives as long as this object, and does what it is told.
class OtherThread {
public:
    ~OtherThread() {
        {
            const std::lock_guard lock{mutex_};
            ends_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }

    /// Returns when the other thread has done `work`.
    void run(std::function<void()> work) {
        std::unique_lock lock{mutex_};
        work_ = std::move(work);
        changed_.notify_all();
        changed_.wait(lock, [this] { return !work_; });
    }

private:
    void loop() {
        std::unique_lock lock{mutex_};
        for (;;) {
            changed_.wait(lock, [this] { return work_ || ends_; });
            if (!work_) return;
            work_();
            work_ = nullptr;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::function<void()> work_;
    bool ends_ = false;
    std::thread thread_{&OtherThread::loop, this};
};

}  // namespace harena::test
