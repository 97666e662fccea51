// SPDX-License-Identifier: Apache-2.0
#include "harena/page/thread_cache.hpp"

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <new>
#include <unordered_map>

#include "harena/base/fork.hpp"
#include "harena/base/os/sys_result.hpp"

namespace harena {

namespace {

/// The pools that are alive, by the id of their caches.
struct Live {
    std::mutex mutex;  // protects all below; before all locks of the page layer
    std::unordered_map<std::uint64_t, ThreadCaches*> caches;
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
/// after those of all thread-local objects, and again if one of the other keys' used a pool.
class ThreadExit {
public:
    ThreadExit() = default;
    ThreadExit(const ThreadExit&) = delete;
    ThreadExit& operator=(const ThreadExit&) = delete;
    ~ThreadExit() {
        ThreadCaches::last_used_ = {};
        this_thread_ = nullptr;
        Live& all = live();
        const std::lock_guard lock{all.mutex};
        for (const ThreadCaches::Used& used : mine_)
            if (const auto pool = all.caches.find(used.id); pool != all.caches.end()) pool->second->retire(used.cache);
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

    [[nodiscard]] ThreadCache* cache_of(std::uint64_t id) const noexcept {
        const auto used = std::ranges::find(mine_, id, &ThreadCaches::Used::id);
        return used == mine_.end() ? nullptr : used->cache;
    }
    void add(std::uint64_t id, ThreadCache* cache) {
        // Pools that are gone are forgotten here: there may be many in the life of a thread.
        std::erase_if(mine_, [](const auto& used) { return !live().caches.contains(used.id); });
        mine_.push_back({id, cache});
    }
    /// In a child after fork: what this thread had is the parent's.
    static void forget() noexcept {
        ThreadCaches::last_used_ = {};
        if (this_thread_ != nullptr) this_thread_->mine_.clear();
    }

private:
    static constinit thread_local ThreadExit* this_thread_;
    std::vector<ThreadCaches::Used> mine_;
};

constinit thread_local ThreadExit* ThreadExit::this_thread_ = nullptr;

namespace {
void after_fork_in_child() noexcept {
    live().mutex.unlock();
    ThreadExit::forget();
}
}  // namespace

constinit thread_local ThreadCaches::Used ThreadCaches::last_used_;

void ThreadCache::refill(PageStore& store, NodeChoice node) noexcept {
    std::array<FreeBlock, k_batch> taken;
    const std::size_t count = store.take_single_pages(taken, node);
    for (std::size_t i = count; i > 0; --i) push(taken[i - 1]);  // the lowest address comes out first
}

void ThreadCache::drain(PageStore& store, std::size_t count) noexcept {
    std::array<FreeBlock, k_capacity> given;
    for (std::size_t i = 0; i < count; ++i) given[i] = pages_[i].block();
    store.give(std::span{given}.first(count));
    const auto begin = pages_.begin();
    std::copy(begin + static_cast<std::ptrdiff_t>(count), begin + static_cast<std::ptrdiff_t>(this->count()), begin);
    set_count(this->count() - count);
}

Result<void> ThreadCaches::prepare() {
    static const Result<void> prepared = [] -> Result<void> {
        OwnerLock::prepare();
        if (const int error = ::pthread_key_create(&key, [](void* exit) { delete static_cast<ThreadExit*>(exit); }))
            return os::fail_with({error}, "cannot learn of the ends of threads");
        return at_fork({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child});
    }();
    return prepared;
}

ThreadCaches::ThreadCaches(PageStore& store) : prepared_{prepare().has_value()}, store_{store} {
    Live& all = live();
    const std::lock_guard lock{all.mutex};
    id_ = ++all.last_id;
    all.caches.emplace(id_, this);
}

ThreadCaches::~ThreadCaches() {
    {
        Live& all = live();
        const std::lock_guard lock{all.mutex};  // a thread that is ending has given back its pages, or finds no pool
        all.caches.erase(id_);
    }
    if (fork_guard_.owner_dead()) return;
    for (const auto& cache : caches_) cache->drain(store_, cache->count());  // no owner is in it
}

ThreadCache* ThreadCaches::mine_if_any() const noexcept {
    const ThreadExit* const thread = ThreadExit::find();
    return thread == nullptr ? nullptr : thread->cache_of(id_);
}

ThreadCache* ThreadCaches::find_mine() noexcept {
    if (!prepared_ || fork_guard_.owner_dead()) return nullptr;
    ThreadCache* cache = mine_if_any();
    if (cache == nullptr) {
        try {
            cache = make_mine();
        } catch (const std::bad_alloc&) {
            return nullptr;
        }
    }
    last_used_ = {id_, cache};
    return cache;
}

ThreadCache* ThreadCaches::make_mine() {
    auto made = std::make_unique<ThreadCache>();
    ThreadCache* const cache = made.get();
    ThreadExit& thread = ThreadExit::get();
    Live& all = live();
    const std::lock_guard live_lock{all.mutex};
    const std::lock_guard lock{mutex_};
    caches_.push_back(std::move(made));
    try {
        thread.add(id_, cache);
    } catch (const std::bad_alloc&) {
        caches_.pop_back();
        throw;
    }
    return cache;
}

void ThreadCaches::retire(ThreadCache* cache) noexcept {
    const std::lock_guard lock{mutex_};
    cache->drain(store_, cache->count());  // the owner is here, and all others wait for the mutex
    std::erase_if(caches_, [cache](const auto& one) { return one.get() == cache; });
}

ThreadCaches::Drained::Drained(ThreadCaches& caches) noexcept : caches_{caches}, lock_{caches.mutex_} {
    const ThreadCache* const own = caches.mine_if_any();
    std::uint64_t moved = 0;
    for (const auto& cache : caches.caches_) cache->owner_lock().revoke();
    const bool all = OwnerLock::barrier();
    for (const auto& cache : caches.caches_) {
        // Nobody is in this thread's.
        if (!all && cache.get() != own) continue;
        if (all) cache->owner_lock().wait_for_owner();
        moved += cache->count();
        cache->drain(caches.store_, cache->count());
    }
    pages_ = PageCount{moved};
}

ThreadCaches::Drained::~Drained() {
    for (const auto& cache : caches_.caches_) cache->owner_lock().restore();
}

PageCount ThreadCaches::pages() const {
    std::uint64_t sum = 0;
    const std::lock_guard lock{mutex_};
    for (const auto& cache : caches_) sum += cache->count();
    return PageCount{sum};
}

}  // namespace harena
