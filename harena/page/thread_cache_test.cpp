// SPDX-License-Identifier: Apache-2.0
#include "harena/page/thread_cache.hpp"

#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <latch>
#include <memory>
#include <optional>
#include <random>
#include <semaphore>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "harena/page/test_support.hpp"

namespace harena {
namespace {

using test::holds_in_child;
using test::make_store;

/// A store of which all is free, and the caches over it; pages are taken and given as a pool does it.
class Pool {
public:
    explicit Pool(std::uint64_t pageblocks = 2) : store_{make_store(pageblocks)} {
        EXPECT_TRUE(ThreadCaches::prepare());
        std::vector<FreeBlock> all;
        while (const auto block = store_->take(k_pageblock_order, {})) all.push_back(*block);
        store_->give(all);
        caches_.emplace(*store_);
    }

    [[nodiscard]] ThreadCaches& caches() { return *caches_; }
    [[nodiscard]] PageStore& store() { return *store_; }
    /// The end of the caches while the store can still be looked at.
    void end_caches() { caches_.reset(); }

    [[nodiscard]] std::optional<FreeBlock> take() {
        if (ThreadCache* const cache = caches_->mine(); cache != nullptr && cache->owner_lock().try_lock()) {
            if (cache->empty()) cache->refill(*store_, {});
            std::optional<FreeBlock> page;
            if (const ThreadCache::Entry entry = cache->pop()) page = entry.block();
            cache->owner_lock().unlock();
            if (page) return page;
        }
        return store_->take_free(Order{}, {});
    }
    void give(const FreeBlock& page) {
        ThreadCache* const cache = caches_->mine();
        if (cache == nullptr || !cache->owner_lock().try_lock()) return store_->give(page);
        if (cache->full()) cache->drain(*store_, ThreadCache::k_batch);
        cache->push(page);
        cache->owner_lock().unlock();
    }
    /// Lets the calling thread have pages in its cache.
    void warm_up() { give(*take()); }

    /// No page is in a cache or out, and all have merged.
    void expect_whole() {
        EXPECT_TRUE(!caches_ || caches_->pages() == PageCount{0});
        EXPECT_EQ(store_->free_pages(), store_->capacity());
        for (std::size_t k = 0; k < 9; ++k) EXPECT_EQ(store_->free_blocks()[k], 0U) << k;
    }

private:
    std::unique_ptr<PageStore> store_;
    std::optional<ThreadCaches> caches_;
};

TEST(ThreadCache, gives_what_was_put_last) {
    ThreadCache cache;
    EXPECT_TRUE(cache.empty());
    for (std::uint32_t i = 0; i < ThreadCache::k_capacity; ++i) {
        EXPECT_FALSE(cache.full());
        EXPECT_EQ(cache.count(), i);
        cache.push({.first = Pfn{i}, .order = Order{}, .zero = i % 3 == 0});
    }
    EXPECT_TRUE(cache.full());
    for (std::uint32_t i = ThreadCache::k_capacity; i-- > 0;) {
        const FreeBlock page = cache.pop().block();
        EXPECT_EQ(page.first, Pfn{i});
        EXPECT_EQ(page.zero, i % 3 == 0);
    }
    EXPECT_TRUE(cache.empty());
}

TEST(ThreadCache, is_filled_by_a_batch_that_comes_out_by_ascending_addresses) {
    Pool pool;
    ThreadCache cache;
    cache.refill(pool.store(), {});
    ASSERT_EQ(cache.count(), ThreadCache::k_batch);
    EXPECT_EQ(pool.store().free_pages(), PageCount{1024 - ThreadCache::k_batch});
    FreeBlock last = cache.pop().block();
    pool.store().give(last);
    while (!cache.empty()) {
        const FreeBlock page = cache.pop().block();
        EXPECT_EQ(page.first, last.first + 1);
        pool.store().give(page);
        last = page;
    }
    pool.expect_whole();
}

TEST(ThreadCache, is_filled_with_what_there_is) {
    const auto store = make_store(1);
    ASSERT_NE(store, nullptr);
    ThreadCache cache;
    cache.refill(*store, {});
    EXPECT_TRUE(cache.empty());
    store->give({.first = store->take(Order{9}, {})->first, .order = Order{2}});
    cache.refill(*store, {});
    EXPECT_EQ(cache.count(), 4U);
    cache.drain(*store, 4);
    EXPECT_EQ(store->free_blocks()[2], 1U);
}

TEST(ThreadCache, drains_what_was_put_first) {
    Pool pool;
    ThreadCache cache;
    cache.refill(pool.store(), {});
    std::vector<FreeBlock> order;
    while (!cache.empty()) order.push_back(cache.pop().block());
    for (const FreeBlock& page : order) cache.push(page);
    cache.drain(pool.store(), 0);
    EXPECT_EQ(cache.count(), ThreadCache::k_batch);
    cache.drain(pool.store(), ThreadCache::k_batch - 2);
    ASSERT_EQ(cache.count(), 2U);
    EXPECT_EQ(cache.pop().pfn(), order[ThreadCache::k_batch - 1].first);
    EXPECT_EQ(cache.pop().pfn(), order[ThreadCache::k_batch - 2].first);
    pool.store().give(std::span{order}.last(2));
    pool.expect_whole();
}

TEST(ThreadCaches, a_thread_has_one_and_always_the_same) {
    Pool pool;
    ThreadCache* const mine = pool.caches().mine();
    ASSERT_NE(mine, nullptr);
    EXPECT_EQ(pool.caches().mine(), mine);
    ThreadCache* others = nullptr;
    std::jthread{[&] { others = pool.caches().mine(); }}.join();
    EXPECT_NE(others, nullptr);
    EXPECT_NE(others, mine);
    EXPECT_EQ(pool.caches().mine(), mine);
}

TEST(ThreadCaches, a_threads_end_gives_its_pages_back) {
    Pool pool;
    for (int i = 0; i < 3; ++i) {
        std::jthread{[&] {
            pool.warm_up();
            EXPECT_EQ(pool.caches().pages(), PageCount{ThreadCache::k_batch});
        }}.join();
        pool.expect_whole();
    }
}

TEST(ThreadCaches, a_pool_may_end_before_a_thread_that_used_it) {
    std::optional<Pool> pool{std::in_place};
    std::latch used{1};
    std::latch ended{1};
    std::jthread thread{[&] {
        pool->warm_up();
        used.count_down();
        ended.wait();
    }};
    used.wait();
    EXPECT_EQ(pool->caches().pages(), PageCount{ThreadCache::k_batch});
    pool->end_caches();
    pool->expect_whole();
    pool.reset();
    ended.count_down();
    thread.join();
    Pool next;  // of which that thread's end takes nothing
    next.expect_whole();
}

TEST(ThreadCaches, a_pool_that_takes_the_place_of_another_is_not_taken_for_it) {
    std::optional<Pool> pool;
    for (int i = 0; i < 5; ++i) {
        pool.emplace();  // at the same address
        EXPECT_EQ(pool->caches().pages(), PageCount{0});
        pool->warm_up();
        EXPECT_EQ(pool->caches().pages(), PageCount{ThreadCache::k_batch});
    }
}

TEST(ThreadCaches, a_thread_uses_two_pools_with_a_cache_for_each) {
    std::array<Pool, 2> pools;
    ThreadCache* const mine[] = {pools[0].caches().mine(), pools[1].caches().mine()};
    EXPECT_NE(mine[0], mine[1]);
    for (int i = 0; i < 100; ++i) {
        EXPECT_EQ(pools[0].caches().mine(), mine[0]);
        EXPECT_EQ(pools[1].caches().mine(), mine[1]);
    }
    std::jthread{[&] {
        for (Pool& pool : pools) pool.warm_up();
        for (Pool& pool : pools) EXPECT_EQ(pool.caches().pages(), PageCount{ThreadCache::k_batch});
    }}.join();
    for (Pool& pool : pools) pool.expect_whole();
    pools[0].warm_up();
    pools[0].end_caches();
    pools[0].expect_whole();
    EXPECT_EQ(pools[1].caches().mine(), mine[1]) << "the other is as it was";
}

TEST(ThreadCaches, threads_end_while_pools_end) {
    const auto store = make_store(2);
    ASSERT_NE(store, nullptr);
    store->give(*store->take(k_max_order, {}));
    for (int round = 0; round < 500; ++round) {
        std::optional<ThreadCaches> caches{*store};
        std::latch filled{3};
        std::vector<std::jthread> threads;
        threads.reserve(5);
        for (int t = 0; t < 2; ++t)
            threads.emplace_back([&] {
                caches->mine()->refill(*store, {});
                filled.arrive_and_wait();
            });
        filled.arrive_and_wait();
        caches.reset();
        threads.clear();
        ASSERT_EQ(store->free_pages(), PageCount{1024}) << round;
        ASSERT_EQ(store->free_blocks()[10], 1U) << round;
    }
}

TEST(ThreadCaches, pages_drained_by_another_thread_while_owners_use_them_are_never_handed_out_twice) {
    Pool pool;
    std::vector<std::atomic<bool>> owned(1024);
    std::atomic<int> twice{0};
    std::atomic<int> too_many{0};
    std::atomic<int> running{3};
    std::latch start{4};
    {
        std::vector<std::jthread> threads;
        threads.reserve(5);
        for (unsigned t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                std::mt19937 random{t};
                std::vector<FreeBlock> held;
                start.arrive_and_wait();
                for (int i = 0; i < 600'000; ++i) {
                    if (random() % 2 == 0 && held.size() < 200) {
                        if (const auto page = pool.take()) {
                            if (owned[page->first.value()].exchange(true)) ++twice;
                            held.push_back(*page);
                        }
                    } else if (!held.empty()) {
                        std::swap(held[random() % held.size()], held.back());
                        if (!owned[held.back().first.value()].exchange(false)) ++twice;
                        pool.give(held.back());
                        held.pop_back();
                    }
                }
                for (const FreeBlock& page : held) {
                    owned[page.first.value()] = false;
                    pool.give(page);
                }
                --running;
            });
        threads.emplace_back([&] {
            start.arrive_and_wait();
            while (running != 0) {
                (void)pool.caches().drain();
                if (pool.caches().pages() > PageCount{3 * ThreadCache::k_capacity}) ++too_many;
            }
        });
    }
    EXPECT_EQ(twice, 0);
    EXPECT_EQ(too_many, 0);
    pool.expect_whole();
}

TEST(ThreadCaches, drain_empties_the_caches_of_threads_that_live) {
    Pool pool;
    std::latch filled{3};
    std::latch drained{1};
    std::vector<std::jthread> threads;
    threads.reserve(5);
    for (int t = 0; t < 2; ++t)
        threads.emplace_back([&] {
            pool.warm_up();
            filled.arrive_and_wait();
            drained.wait();
            EXPECT_TRUE(pool.take()) << "it can be used after that";
        });
    filled.arrive_and_wait();
    EXPECT_EQ(pool.caches().pages(), PageCount{2 * ThreadCache::k_batch});
    (void)pool.caches().drain();
    pool.expect_whole();
    drained.count_down();
    threads.clear();
    EXPECT_EQ(pool.store().free_pages(), PageCount{1022}) << "all but the two that were taken";
}

TEST(ThreadCaches, many_pools_in_the_life_of_a_thread_do_not_grow_its_memory) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers replace malloc";
    const auto store = make_store(1);
    ASSERT_NE(store, nullptr);
    std::binary_semaphore turn{0};
    std::binary_semaphore done{0};
    std::optional<ThreadCaches> caches;
    // Another thread that lives all the time, too.
    std::jthread other{[&] {
        for (turn.acquire(); caches; turn.acquire()) {
            (void)caches->mine();
            done.release();
        }
    }};
    const auto one_pool = [&] {
        caches.emplace(*store);
        (void)caches->mine();
        turn.release();
        done.acquire();
        caches.reset();
    };
    for (int i = 0; i < 10; ++i) one_pool();
    const std::size_t before = ::mallinfo2().uordblks;
    for (int i = 0; i < 2000; ++i) one_pool();
    EXPECT_LT(::mallinfo2().uordblks, before + 8192);
    turn.release();
}

TEST(ThreadCaches, many_threads_in_the_life_of_a_pool_do_not_grow_its_memory) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers replace malloc";
    Pool pool;
    const auto one_thread = [&] { std::jthread{[&] { pool.warm_up(); }}.join(); };
    for (int i = 0; i < 10; ++i) one_thread();
    const std::size_t before = ::mallinfo2().uordblks;
    for (int i = 0; i < 500; ++i) one_thread();
    EXPECT_LT(::mallinfo2().uordblks, before + 8192);
    pool.expect_whole();
}

/// Uses a pool when its thread ends.
struct AtThreadEnd {
    AtThreadEnd() = default;
    AtThreadEnd(const AtThreadEnd&) = delete;
    AtThreadEnd& operator=(const AtThreadEnd&) = delete;
    ~AtThreadEnd() {
        if (pool == nullptr) return;
        *had_cache = pool->caches().mine() != nullptr;
        pool->give(*pool->take());
    }
    Pool* pool = nullptr;
    bool* had_cache = nullptr;
};

TEST(ThreadCaches, destructors_of_thread_local_objects_can_use_a_pool) {
    Pool pool;
    bool early = false;
    bool late = false;
    std::jthread{[&] {
        static thread_local AtThreadEnd made_first;  // destroyed last
        made_first.pool = &pool;
        made_first.had_cache = &late;
        pool.warm_up();
        static thread_local AtThreadEnd made_last;
        made_last.pool = &pool;
        made_last.had_cache = &early;
    }}.join();
    EXPECT_TRUE(early);
    EXPECT_TRUE(late);
    pool.expect_whole();
}

TEST(ThreadCaches, destructors_of_keys_can_use_a_pool_even_if_they_are_the_first_to) {
    static Pool* used = nullptr;
    Pool pool;
    used = &pool;
    pthread_key_t key{};
    ASSERT_EQ(::pthread_key_create(&key, [](void*) { used->warm_up(); }), 0);
    for (int i = 0; i < 20; ++i) std::jthread{[&] { ::pthread_setspecific(key, &key); }}.join();
    ::pthread_key_delete(key);
    pool.expect_whole();
}

TEST(ThreadCachesFork, a_child_has_none_of_its_parents_and_can_destroy_them) {
    std::optional<Pool> pool{std::in_place};
    pool->warm_up();
    EXPECT_TRUE(holds_in_child([&] {
        EXPECT_EQ(pool->caches().mine(), nullptr);
        EXPECT_EQ(pool->caches().mine(), nullptr);
        pool.reset();
    }));
    EXPECT_EQ(pool->caches().pages(), PageCount{ThreadCache::k_batch}) << "the parent's are untouched";
    pool->end_caches();
    pool->expect_whole();
}

TEST(ThreadCachesFork, a_child_makes_its_own_and_its_child_too) {
    Pool parents;
    parents.warm_up();
    const auto works = [&] {
        Pool own;
        own.warm_up();
        EXPECT_EQ(own.caches().pages(), PageCount{ThreadCache::k_batch});
        std::jthread{[&] { own.warm_up(); }}.join();
        EXPECT_EQ(own.caches().pages(), PageCount{ThreadCache::k_batch});
        EXPECT_EQ(parents.caches().mine(), nullptr);
        own.end_caches();
        own.expect_whole();
    };
    EXPECT_TRUE(holds_in_child([&] {
        works();
        Pool childs;
        childs.warm_up();
        EXPECT_TRUE(holds_in_child([&] {
            works();
            EXPECT_EQ(childs.caches().mine(), nullptr);
        }));
        childs.warm_up();
        EXPECT_EQ(childs.caches().pages(), PageCount{ThreadCache::k_batch});
    }));
    EXPECT_EQ(parents.caches().pages(), PageCount{ThreadCache::k_batch});
}

TEST(ThreadCachesFork, a_thread_other_than_the_first_may_fork) {
    Pool pool;
    std::jthread{[&] {
        pool.warm_up();
        EXPECT_TRUE(holds_in_child([&] {
            EXPECT_EQ(pool.caches().mine(), nullptr);
            Pool own;
            own.warm_up();
            own.end_caches();
            own.expect_whole();
        }));
        EXPECT_EQ(pool.caches().pages(), PageCount{ThreadCache::k_batch});
    }}.join();
    pool.expect_whole();
}

TEST(ThreadCachesFork, a_fork_while_threads_begin_and_end_leaves_no_lock_held_in_the_child) {
    if (test::k_sanitizer) GTEST_SKIP() << "looks at more than a child of threads may under sanitizers";
    std::optional<Pool> pool{std::in_place};
    std::atomic<bool> stop{false};
    std::vector<std::jthread> threads;
    threads.reserve(5);
    threads.emplace_back([&] {
        while (!stop) std::jthread{[&] { pool->warm_up(); }}.join();
    });
    threads.emplace_back([&] {
        while (!stop) (void)pool->caches().drain();
    });
    for (int i = 0; i < 40 && !::testing::Test::HasFailure(); ++i) {
        EXPECT_TRUE(holds_in_child([&] {
            EXPECT_EQ(pool->caches().mine(), nullptr);
            pool.reset();
            const auto store = make_store(1);
            ThreadCaches own{*store};
            EXPECT_NE(own.mine(), nullptr);
        })) << i;
    }
    stop = true;
    threads.clear();
    pool->expect_whole();
}

}  // namespace
}  // namespace harena
