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
#include "harena/base/thread_owned.hpp"
#include "harena/page/owner_lock.hpp"
#include "harena/page/page_store.hpp"

namespace harena {

/// The single pages that one thread keeps of one pool. Who wants all caches empty takes the lock of others' caches; a
/// thread that does not get its own meanwhile goes to the store. Aligned so that no two threads' share a cache line,
/// nor the pair of lines that processors fetch together.
class alignas(128) ThreadCache {
public:
    static constexpr std::size_t k_capacity = 64;
    /// How many pages come from the store, or go back, at a time.
    static constexpr std::size_t k_batch = k_capacity / 2;

    /// A page, or none, in one number: what is written in parts and read in one piece stalls the processor.
    class Entry {
    public:
        Entry() = default;
        explicit Entry(const FreeBlock& page) noexcept : bits_{page.first.value() | (page.zero ? k_zero : 0)} {}
        explicit operator bool() const noexcept { return bits_ != k_none; }
        [[nodiscard]] Pfn pfn() const noexcept { return Pfn{bits_ & ~k_zero}; }
        [[nodiscard]] bool zero() const noexcept { return (bits_ & k_zero) != 0; }
        [[nodiscard]] FreeBlock block() const noexcept { return {.first = pfn(), .order = Order{}, .zero = zero()}; }

    private:
        static constexpr std::uint32_t k_zero = 1U << 31;
        static constexpr std::uint32_t k_none = ~0U;
        static_assert(k_max_pages < k_zero);
        std::uint32_t bits_ = k_none;
    };

    [[nodiscard]] OwnerLock& owner_lock() noexcept { return lock_; }
    /// How many pages it has; without the lock, a moment ago.
    [[nodiscard]] std::size_t count() const noexcept { return count_.load(std::memory_order_relaxed); }

    // All of these with the lock held.
    [[nodiscard]] bool empty() const noexcept { return count() == 0; }
    [[nodiscard]] bool full() const noexcept { return count() == k_capacity; }
    /// The page that was put last; none if the cache is empty.
    [[nodiscard]] Entry pop() noexcept {
        if (empty()) return {};
        const std::size_t left = count() - 1;
        set_count(left);
        return pages_[left];
    }
    void push(const FreeBlock& page) noexcept {
        pages_[count()] = Entry{page};
        set_count(count() + 1);
    }

    /// Fills an empty cache with up to `k_batch` pages that are free in `store`.
    void refill(PageStore& store, NodeChoice node) noexcept;
    /// Gives the `count` pages that were put first back.
    void drain(PageStore& store, std::size_t count) noexcept;

private:
    void set_count(std::size_t count) noexcept { count_.store(count, std::memory_order_relaxed); }

    OwnerLock lock_;                     // protects all below; before the store's locks
    std::atomic<std::size_t> count_{0};  // changed with the lock held
    std::array<Entry, k_capacity> pages_;
};

/// The caches of all threads that use one pool. A thread's is made at its first use and given back at its end.
class ThreadCaches final : private ThreadOwned {
public:
    /// What is done once in a process, before the first: EAGAIN, ENOMEM.
    [[nodiscard]] static Result<void> prepare();
    explicit ThreadCaches(PageStore& store);
    ThreadCaches(const ThreadCaches&) = delete;
    ThreadCaches& operator=(const ThreadCaches&) = delete;
    /// Gives all pages back. No thread may use the pool any more.
    ~ThreadCaches() override;

    /// The calling thread's; null if it has none and can have none now: it is ending, memory is short, or this is a
    /// child after fork.
    [[nodiscard]] ThreadCache* mine() noexcept {
        if (last_used_.id == id()) [[likely]]
            return last_used_.cache;
        return find_mine();
    }

    /// Gives the pages of all caches back to the store. Where a sandbox forbids membarrier(2), only after it was
    /// allowed before, they stay with their threads.
    /// No thread can fill its cache again as long as what this returns is kept.
    class [[nodiscard]] Drained {
    public:
        Drained(const Drained&) = delete;
        Drained& operator=(const Drained&) = delete;
        ~Drained();
        /// How many pages there were.
        [[nodiscard]] PageCount pages() const noexcept { return pages_; }

    private:
        friend class ThreadCaches;
        explicit Drained(ThreadCaches& caches) noexcept;
        ThreadCaches& caches_;
        std::lock_guard<std::mutex> lock_;
        PageCount pages_;
    };
    Drained drain() noexcept { return Drained{*this}; }
    /// Pages in all caches.
    [[nodiscard]] PageCount pages() const;

private:
    struct Used {
        std::uint64_t id = 0;  // of a `ThreadCaches`; 0: none
        ThreadCache* cache = nullptr;
    };

    /// The calling thread's, if it has one.
    [[nodiscard]] ThreadCache* mine_if_any() const noexcept;
    [[nodiscard]] ThreadCache* find_mine() noexcept;
    [[nodiscard]] ThreadCache* make_mine();
    void retire(void* part) noexcept override;
    void forget() noexcept override { last_used_ = {}; }
    static constinit thread_local Used last_used_;

    bool prepared_;  // without, threads have no caches
    PageStore& store_;
    ForkGuard fork_guard_;
    mutable std::mutex mutex_;  // protects caches_, and who takes locks of others; before those locks
    std::vector<std::unique_ptr<ThreadCache>> caches_;
};

}  // namespace harena
