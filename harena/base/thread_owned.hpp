// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "harena/base/result.hpp"

namespace harena {

/// Something of which each thread that uses it has a part of its own, to be given back at the thread's end: the pages
/// that a thread keeps of one pool. A derived class calls `end` first in its destructor.
class ThreadOwned {
public:
    /// What is done once in a process, before the first: EAGAIN, ENOMEM. Thread-safe.
    [[nodiscard]] static Result<void> prepare();
    ThreadOwned(const ThreadOwned&) = delete;
    ThreadOwned& operator=(const ThreadOwned&) = delete;

protected:
    /// Throws std::bad_alloc.
    ThreadOwned();
    virtual ~ThreadOwned() = default;
    /// After it, no thread's end calls `retire`.
    void end() noexcept;

    /// Never used twice in a process: an object that takes the place of another is not taken for it. Never 0.
    [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
    /// The calling thread's part; null if it has none.
    [[nodiscard]] void* part_of_this_thread() const noexcept;
    /// Makes `part` the calling thread's. The thread calls `while_live` with the lock of all ends of threads held: what
    /// it does and a `retire` exclude each other. Throws what that throws, and std::bad_alloc; then there is no part.
    template <typename Function>
    void set_part_of_this_thread(void* part, Function&& while_live);

    /// The calling thread, which has `part`, ends. Runs after the destructors of all its thread-local objects.
    virtual void retire(void* part) noexcept = 0;
    /// This is a child after fork, and the object is its parent's: no thread has a part. Async-signal-safe.
    virtual void forget() noexcept = 0;

private:
    friend class ThreadExit;
    class LiveLock {
    public:
        LiveLock() noexcept;
        LiveLock(const LiveLock&) = delete;
        LiveLock& operator=(const LiveLock&) = delete;
        ~LiveLock();
    };
    void add_part(void* part);
    void remove_part() noexcept;

    std::uint64_t id_;
};

template <typename Function>
void ThreadOwned::set_part_of_this_thread(void* part, Function&& while_live) {
    const LiveLock lock;
    add_part(part);
    try {
        while_live();
    } catch (...) {
        remove_part();
        throw;
    }
}

}  // namespace harena
