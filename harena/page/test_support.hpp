// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "harena/base/test_support.hpp"
#include "harena/page/page_pool.hpp"
#include "harena/page/page_store.hpp"

/// What the tests of this layer share.
namespace harena::test {

/// The value, or a failed test and null.
template <typename T>
std::unique_ptr<T> value_or_null(Result<std::unique_ptr<T>> result) {
    if (result) return std::move(*result);
    ADD_FAILURE() << result.error().message();
    return nullptr;
}

/// A store with room for `pageblocks`, none of them there yet; its pages are not collapsed, which would be slow.
inline std::unique_ptr<PageStore> make_store(std::uint64_t pageblocks, unsigned nodes = 1) {
    return value_or_null(PageStore::create(
        {.direct_map = {.capacity = PageCount{pageblocks * k_pageblock_pages}, .collapse = false}, .nodes = nodes}));
}

inline std::unique_ptr<PagePool> make_pool(PageCount capacity) {
    return value_or_null(PagePool::create({.capacity = capacity, .nodes = 1}));
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
            // Without the lock: what is done takes locks of its own.
            lock.unlock();
            work_();
            lock.lock();
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
