// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/page/page_store.hpp"

namespace harena {

/// The single pages that one thread keeps of one pool. Its lock is nearly always free: only who wants all caches empty
/// takes that of another thread. It is taken by try, and a thread that does not get its own goes to the store.
class ThreadCache {
public:
    static constexpr std::size_t k_capacity = 64;
    /// How many pages come from the store, or go back, at a time.
    static constexpr std::size_t k_batch = k_capacity / 2;

    /// With the lock held: the page that was put last; none if there is none.
    [[nodiscard]] bool try_lock() noexcept { return !locked_.exchange(true, std::memory_order_acquire); }
    void lock() noexcept;
    void unlock() noexcept { locked_.store(false, std::memory_order_release); }

    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] bool full() const noexcept { return count_ == k_capacity; }
    [[nodiscard]] std::size_t count() const noexcept { return count_; }
    [[nodiscard]] FreeBlock pop() noexcept { return pages_[--count_]; }
    void push(const FreeBlock& page) noexcept { pages_[count_++] = page; }

    /// Fills an empty cache with up to `k_batch` pages that are free in `store`.
    void refill(PageStore& store, NodeChoice node) noexcept;
    /// Gives the `count` pages that were put first back.
    void drain(PageStore& store, std::size_t count) noexcept;

private:
    std::atomic<bool> locked_{false};  // protects all below; before the store's locks
    std::size_t count_ = 0;
    std::array<FreeBlock, k_capacity> pages_;
};

/// The caches of all threads that use one pool. A thread's is made at its first use and given back at its end.
class ThreadCaches {
public:
    explicit ThreadCaches(PageStore& store);
    ThreadCaches(const ThreadCaches&) = delete;
    ThreadCaches& operator=(const ThreadCaches&) = delete;
    /// Gives all pages back. No thread may use the pool any more.
    ~ThreadCaches();

    /// The calling thread's; null if it has none and can have none now: it is ending, memory is short, or this is a
    /// child after fork.
    [[nodiscard]] ThreadCache* mine() noexcept {
        if (last_used_.id == id_) [[likely]]
            return last_used_.cache;
        return find_mine();
    }

    /// Gives the pages of all caches back to the store.
    void drain() noexcept;
    /// Pages in all caches.
    [[nodiscard]] PageCount pages() noexcept;

private:
    friend class ThreadExit;

    struct Used {
        std::uint64_t id = 0;  // of a `ThreadCaches`; 0: none
        ThreadCache* cache = nullptr;
    };

    [[nodiscard]] ThreadCache* find_mine() noexcept;
    [[nodiscard]] ThreadCache* make_mine();
    /// The end of a thread that has `cache`.
    void retire(ThreadCache* cache) noexcept;

    static constinit thread_local Used last_used_;

    std::uint64_t id_;  // never used twice in a process: a pool that takes the place of another is not taken for it
    PageStore& store_;
    ForkGuard fork_guard_;
    std::mutex mutex_;  // protects caches_; before the locks of the caches
    std::vector<std::unique_ptr<ThreadCache>> caches_;
};

}  // namespace harena
