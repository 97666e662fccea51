// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "harena/base/asymmetric_fence.hpp"
#include "harena/base/fork.hpp"
#include "harena/base/result.hpp"
#include "harena/base/thread_owned.hpp"

namespace harena {

/// Which threads are inside of text, and since which epoch. docs/exec.md, "Retiring", says why it is safe and prompt.
class TextReaders final : private ThreadOwned {
public:
    using Epoch = std::uint64_t;

    /// What one thread says of itself. Its owner writes, all read.
    struct alignas(64) Slot {
        std::atomic<Epoch> epoch{0};  // 0: outside
        std::uint32_t depth = 0;      // of the owner's sections
        bool owned = false;           // with the lock held
    };

    /// What is done once in a process, before the first: EAGAIN, ENOMEM.
    [[nodiscard]] static Result<void> prepare();
    /// Throws std::bad_alloc.
    TextReaders() = default;
    TextReaders(const TextReaders&) = delete;
    TextReaders& operator=(const TextReaders&) = delete;
    /// No thread may be inside any more.
    ~TextReaders() override { end(); }

    /// The calling thread's; null if it has none and can have none now: memory is short, or this is a child after fork.
    [[nodiscard]] Slot* mine() noexcept {
        if (last_used_.id == id()) [[likely]]
            return last_used_.slot;
        return find_mine();
    }
    /// The thread that has `slot` is inside until it leaves as often as it entered.
    void enter(Slot& slot) noexcept {
        if (slot.depth++ != 0) return;
        slot.epoch.store(current_.load(std::memory_order_acquire), std::memory_order_relaxed);
        AsymmetricFence::light();
    }
    /// True if something may be free now that the thread has left: `oldest` tells.
    [[nodiscard]] bool leave(Slot& slot) noexcept {
        if (--slot.depth != 0) return false;
        const Epoch since = slot.epoch.load(std::memory_order_relaxed);
        slot.epoch.store(0, std::memory_order_release);
        AsymmetricFence::light();
        return newest_pending_.load(std::memory_order_relaxed) >= since;
    }

    /// The epoch of what is retired now; whoever enters after this is in a later one.
    [[nodiscard]] Epoch advance() noexcept { return current_.fetch_add(1, std::memory_order_acq_rel); }
    /// What was retired up to this epoch waits; 0: nothing does. One thread at a time.
    void set_newest_pending(Epoch epoch) noexcept { newest_pending_.store(epoch, std::memory_order_relaxed); }
    /// Between a retiring thread's `advance` with `set_newest_pending`, and its `oldest`. False if there was no
    /// barrier.
    [[nodiscard]] static bool barrier() noexcept { return AsymmetricFence::heavy(); }
    /// What was retired in an earlier epoch than this is nobody's any more.
    [[nodiscard]] Epoch oldest() const noexcept;
    /// Threads that are inside at the moment.
    [[nodiscard]] std::uint64_t inside() const noexcept;

private:
    struct Used {
        std::uint64_t id = 0;
        Slot* slot = nullptr;
    };
    [[nodiscard]] Slot* find_mine() noexcept;
    [[nodiscard]] Slot* take_slot();
    void retire(void* part) noexcept override;
    void forget() noexcept override { last_used_ = {}; }
    static constinit thread_local Used last_used_;

    ForkGuard fork_guard_;
    std::atomic<Epoch> current_{1};
    std::atomic<Epoch> newest_pending_{0};
    mutable std::mutex mutex_;  // protects slots_, and who owns them
    std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace harena
