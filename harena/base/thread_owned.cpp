// SPDX-License-Identifier: Apache-2.0
#include "harena/base/thread_owned.hpp"

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/base/os/sys_result.hpp"

namespace harena {

namespace {

/// The objects that are alive, by their ids.
struct Live {
    std::mutex mutex;  // protects all below; before the locks of those objects (docs/locking.md)
    std::unordered_map<std::uint64_t, ThreadOwned*> objects;
    std::uint64_t last_id = 0;
};

Live& live() {
    static auto* const all = new Live;  // threads end after static objects do
    return *all;
}

void before_fork() noexcept { live().mutex.lock(); }
void after_fork_in_parent() noexcept { live().mutex.unlock(); }
void after_fork_in_child() noexcept;

pthread_key_t key;

}  // namespace

/// What a thread has, to be given back at its end. By a key rather than a thread-local object: its destructor runs
/// after those of all thread-local objects, and again if one of the other keys' used such an object.
class ThreadExit {
public:
    struct Part {
        std::uint64_t id;
        void* part;
    };

    ThreadExit() = default;
    ThreadExit(const ThreadExit&) = delete;
    ThreadExit& operator=(const ThreadExit&) = delete;
    ~ThreadExit() {
        this_thread_ = nullptr;
        Live& all = live();
        const std::lock_guard lock{all.mutex};
        for (const Part& part : parts_)
            if (const auto object = all.objects.find(part.id); object != all.objects.end())
                object->second->retire(part.part);
    }

    /// The calling thread's; null if it has none.
    static ThreadExit* find() noexcept { return this_thread_; }
    /// The calling thread's, made if it has none. Throws std::bad_alloc.
    static ThreadExit& get() {
        if (this_thread_ == nullptr) {
            auto made = std::make_unique<ThreadExit>();
            if (::pthread_setspecific(key, made.get()) != 0) throw std::bad_alloc{};
            this_thread_ = made.release();
        }
        return *this_thread_;
    }

    [[nodiscard]] void* part_of(std::uint64_t id) const noexcept {
        const auto found = std::ranges::find(parts_, id, &Part::id);
        return found == parts_.end() ? nullptr : found->part;
    }
    /// With the lock of `live` held.
    void add(std::uint64_t id, void* part) {
        // Objects that are gone are forgotten here: there may be many in the life of a thread.
        std::erase_if(parts_, [](const Part& one) { return !live().objects.contains(one.id); });
        parts_.push_back({id, part});
    }
    void remove(std::uint64_t id) noexcept {
        std::erase_if(parts_, [id](const Part& one) { return one.id == id; });
    }
    /// In a child after fork: what this thread had is the parent's.
    static void forget() noexcept {
        if (this_thread_ != nullptr) this_thread_->parts_.clear();
        for (const auto& [id, object] : live().objects) object->forget();
    }

private:
    static constinit thread_local ThreadExit* this_thread_;
    std::vector<Part> parts_;
};

constinit thread_local ThreadExit* ThreadExit::this_thread_ = nullptr;

namespace {
void after_fork_in_child() noexcept {
    live().mutex.unlock();
    ThreadExit::forget();
}
}  // namespace

Result<void> ThreadOwned::prepare() try {
    (void)live();  // made here, where there may be no memory for it: later, it is locked by what cannot fail
    static std::mutex mutex;
    static bool has_key = false;
    {
        const std::lock_guard lock{mutex};
        if (!has_key)
            if (const int error = ::pthread_key_create(&key, [](void* exit) { delete static_cast<ThreadExit*>(exit); }))
                return os::fail_with({error}, "cannot learn of the ends of threads");
        has_key = true;
    }
    static ForkRules rules;
    return rules.ensure({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child});
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of what threads own");
}

ThreadOwned::LiveLock::LiveLock() noexcept { live().mutex.lock(); }
ThreadOwned::LiveLock::~LiveLock() { live().mutex.unlock(); }

ThreadOwned::ThreadOwned() {
    const LiveLock lock;
    id_ = ++live().last_id;
    live().objects.emplace(id_, this);
}

void ThreadOwned::end() noexcept {
    const LiveLock lock;  // a thread that is ending has given back its part, or finds no object
    live().objects.erase(id_);
}

void* ThreadOwned::part_of_this_thread() const noexcept {
    const ThreadExit* const thread = ThreadExit::find();
    return thread == nullptr ? nullptr : thread->part_of(id_);
}

void ThreadOwned::add_part(void* part) { ThreadExit::get().add(id_, part); }
void ThreadOwned::remove_part() noexcept { ThreadExit::find()->remove(id_); }

}  // namespace harena
