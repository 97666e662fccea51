// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <filesystem>
#include <thread>

#include "harena/page/page_pool.hpp"
#include "harena/secret/secret_bytes.hpp"
#include "harena/secret/secret_pages.hpp"
#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using test::Pattern;
using test::refused;

std::size_t secret_descriptors() {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
        std::error_code error;
        if (std::filesystem::read_symlink(entry.path(), error).string().find("secretmem") != std::string::npos) ++count;
    }
    return count;
}

class SecretFork : public test::SecretHeapTest {};

TEST_F(SecretFork, children_have_no_secret_and_are_told) {
    std::byte* const secret = alloc(32);
    std::byte* const guarded = alloc(32, {.guarded = true});
    auto bytes = SecretBytes::create(*heap_, 100).value();
    Pattern{1}.fill(secret, 32);
    EXPECT_TRUE(test::holds_in_child([&] {
        EXPECT_FALSE(test::readable(secret));
        EXPECT_FALSE(test::writable(secret));
        EXPECT_FALSE(test::readable(guarded));
        EXPECT_FALSE(test::readable(bytes.data()));
        EXPECT_TRUE(refused(heap_->alloc(32), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(heap_->alloc(32, {.guarded = true}), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(heap_->free(secret), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(bytes.copy(), EOWNERDEAD, "parent"));
        EXPECT_EQ(heap_->size_of(secret), 0U);
        EXPECT_EQ(heap_->trim(), 0U);
        EXPECT_EQ(heap_->statistics().live, 0U);
        bytes.reset();
        heap_.reset();
        const auto own = SecretHeap::create();
        ASSERT_TRUE(own) << own.error().message();
        EXPECT_TRUE((*own)->free((*own)->alloc(32).value()));
    }));
    EXPECT_TRUE(Pattern{1}.is_at(secret, 32));
    free(secret);
    free(guarded);
}

TEST_F(SecretFork, children_have_neither_pages_nor_their_descriptors) {
    const auto closed = SecretPages::create(PageCount{1}).value();
    const auto opened = SecretPages::create(PageCount{1}).value();
    SecretWindow window = opened->open().value();
    EXPECT_EQ(secret_descriptors(), 2U);
    EXPECT_TRUE(test::holds_in_child([&] {
        EXPECT_EQ(secret_descriptors(), 0U);
        EXPECT_EQ(test::count_mappings("secretmem"), 0U);
        EXPECT_FALSE(test::readable(window.data()));
        EXPECT_TRUE(refused(closed->open(), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(window.close(), EOWNERDEAD, "parent"));
        EXPECT_EQ(opened->windows(), 0U);
        const auto own = SecretPages::create(PageCount{1}).value();
        EXPECT_TRUE(own->open());
        EXPECT_EQ(secret_descriptors(), 1U);
    }));
    EXPECT_TRUE(test::readable(window.data()));
    EXPECT_EQ(secret_descriptors(), 2U);
}

TEST_F(SecretFork, grandchildren_have_nothing_either) {
    const std::byte* const secret = alloc(32);
    EXPECT_TRUE(test::holds_in_child([&] {
        const auto own = SecretHeap::create().value();
        void* const mine = own->alloc(32).value();
        EXPECT_TRUE(test::holds_in_child([&] {
            EXPECT_FALSE(test::readable(secret));
            EXPECT_FALSE(test::readable(mine));
            EXPECT_TRUE(refused(own->alloc(1), EOWNERDEAD, "parent"));
        }));
        EXPECT_TRUE(test::readable(mine));
    }));
}

/// Threads are in every lock of the layer while the process forks, again and again.
void fork_beside_threads(SecretHeap& heap, int forks) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    threads.emplace_back([&] {
        while (!stop) {
            std::vector<void*> live;
            for (int i = 0; i < 2000; ++i) live.push_back(heap.alloc(700).value());
            for (void* const one : live) (void)heap.free(one);
            (void)heap.trim();
        }
    });
    threads.emplace_back([&] {
        while (!stop) (void)heap.free(heap.alloc(8, {.guarded = true}).value());
    });
    threads.emplace_back([&] {
        while (!stop) {
            const auto pages = SecretPages::create(PageCount{1}).value();
            (void)pages->open().value();
        }
    });
    threads.emplace_back([&] {
        while (!stop) std::thread{[&] { (void)heap.free(heap.alloc(32).value()); }}.join();
    });
    for (int i = 0; i < forks && !testing::Test::HasFailure(); ++i)
        EXPECT_TRUE(test::holds_in_child([&] {
            EXPECT_EQ(secret_descriptors(), 0U);
            EXPECT_EQ(test::count_mappings("secretmem"), 0U);
            EXPECT_TRUE(refused(heap.alloc(32), EOWNERDEAD, "parent"));
            const auto own = SecretHeap::create().value();
            EXPECT_TRUE(own->free(own->alloc(32).value()));
        }));
    stop = true;
    for (std::thread& thread : threads) thread.join();
}

TEST_F(SecretFork, beside_threads_neither_waits_for_ever_nor_leaks_into_the_child) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers do not know of children of threads";
    fork_beside_threads(*heap_, 200);
}

// Handlers of fork take their locks in the order in which the layers were first used. Meant to run in a process of its
// own, as ctest does.
TEST(SecretForkAfterPool, neither_waits_for_ever_nor_leaks_into_the_child) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers do not know of children of threads";
    if (!os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
    const auto pool = PagePool::create({.capacity = PageCount{k_pageblock_pages}, .nodes = 1}).value();
    (void)pool->free_pages(pool->alloc_pages(Order{}).value(), Order{});
    const auto heap = SecretHeap::create().value();
    fork_beside_threads(*heap, 100);
}

}  // namespace
}  // namespace harena
