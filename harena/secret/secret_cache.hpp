// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/base/thread_owned.hpp"
#include "harena/page/owner_lock.hpp"
#include "harena/secret/slab_store.hpp"

namespace harena {

/// How many secrets there are, as one thread sees it: it may free what others allocated, so only the sum over all
/// threads means something. Written by one thread at a time, read by all.
class SecretCounts {
public:
    void add(std::size_t bytes) noexcept { change(1, bytes); }
    void remove(std::size_t bytes) noexcept { change(~std::uint64_t{0}, ~std::uint64_t{bytes} + 1); }
    void add(const SecretCounts& other) noexcept { change(other.secrets(), other.bytes()); }

    [[nodiscard]] std::uint64_t secrets() const noexcept { return secrets_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_.load(std::memory_order_relaxed); }

private:
    void change(std::uint64_t secrets, std::uint64_t bytes) noexcept {
        secrets_.store(this->secrets() + secrets, std::memory_order_relaxed);
        bytes_.store(this->bytes() + bytes, std::memory_order_relaxed);
    }

    std::atomic<std::uint64_t> secrets_{0};
    std::atomic<std::uint64_t> bytes_{0};
};

/// The free slots that one thread keeps of one heap, all zero. Who wants all caches empty takes the lock of others'; a
/// thread that does not get its own meanwhile goes to the store.
class alignas(128) SecretCache {
public:
    [[nodiscard]] OwnerLock& owner_lock() noexcept { return lock_; }

    // All of these with the lock held.
    /// The slot of the class that was put last; null if there is none.
    [[nodiscard]] std::byte* pop(ClassIndex index) noexcept {
        Stack& stack = stacks_[index];
        return stack.count == 0 ? nullptr : stack.slots[--stack.count];
    }
    /// False if there is no room.
    [[nodiscard]] bool push(ClassIndex index, std::byte* slot) noexcept {
        Stack& stack = stacks_[index];
        if (stack.count == k_size_classes[index].kept_by_threads()) return false;
        stack.slots[stack.count++] = slot;
        return true;
    }
    /// Takes half as many slots as there is room for; returns as `SlabStore::take_slots` does. None are there.
    [[nodiscard]] Result<std::size_t> refill(SlabStore& store, ClassIndex index);
    /// Gives back the slots of the class that were put first, half of what there is room for.
    void spill(SlabStore& store, ClassIndex index) noexcept;
    void drain(SlabStore& store) noexcept;

    [[nodiscard]] SecretCounts& counts() noexcept { return counts_; }
    [[nodiscard]] const SecretCounts& counts() const noexcept { return counts_; }

private:
    static constexpr std::size_t k_most = 32;
    struct Stack {
        std::uint32_t count = 0;
        std::array<std::byte*, k_most> slots;
    };

    OwnerLock lock_;  // protects all below; before the store's lock
    SecretCounts counts_;
    std::array<Stack, k_classes> stacks_;
};

/// The caches of all threads that use one heap. A thread's is made at its first use and given back at its end.
class SecretCaches final : private ThreadOwned {
public:
    /// What is done once in a process, before the first: EAGAIN, ENOMEM.
    [[nodiscard]] static Result<void> prepare();
    /// Throws std::bad_alloc.
    explicit SecretCaches(SlabStore& store) noexcept(false) : store_{store} {}
    SecretCaches(const SecretCaches&) = delete;
    SecretCaches& operator=(const SecretCaches&) = delete;
    /// No thread may use the heap any more.
    ~SecretCaches() override { end(); }

    /// The calling thread's; null if it has none and can have none now: it is ending, memory is short, or this is a
    /// child after fork.
    [[nodiscard]] SecretCache* mine() noexcept {
        if (last_used_.id == id()) [[likely]]
            return last_used_.cache;
        return find_mine();
    }

    /// Gives the slots of all caches back to the store, and keeps all caches empty as long as this object lives. Where
    /// a sandbox forbids membarrier(2), after it was allowed before, only the calling thread's are given back.
    class [[nodiscard]] Drained {
    public:
        explicit Drained(SecretCaches& caches) noexcept;
        Drained(const Drained&) = delete;
        Drained& operator=(const Drained&) = delete;
        ~Drained();

    private:
        SecretCaches& caches_;
        std::lock_guard<std::mutex> lock_;
    };

    /// Counts what a thread without a cache did.
    template <typename Change>
    void count_without_cache(Change&& change) noexcept {
        const std::lock_guard lock{mutex_};
        change(others_);
    }
    struct Sum {
        std::uint64_t secrets;
        std::uint64_t bytes;
    };
    /// Secrets in slots. Exact if no thread allocates or frees meanwhile.
    [[nodiscard]] Sum sum() const noexcept;

private:
    struct Used {
        std::uint64_t id = 0;  // of a `SecretCaches`; 0: none
        SecretCache* cache = nullptr;
    };

    [[nodiscard]] SecretCache* find_mine() noexcept;
    [[nodiscard]] SecretCache* make_mine();
    void retire(void* part) noexcept override;
    void forget() noexcept override { last_used_ = {}; }
    static constinit thread_local Used last_used_;

    SlabStore& store_;
    ForkGuard fork_guard_;
    mutable std::mutex mutex_;  // protects all below, and who takes locks of others; before those locks
    std::vector<std::unique_ptr<SecretCache>> caches_;
    SecretCounts others_;  // of threads that have ended or have no cache
};

}  // namespace harena
