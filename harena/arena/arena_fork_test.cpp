// SPDX-License-Identifier: Apache-2.0
//
// A child after fork has no arena: it can neither reach nor harm its parent's.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {
namespace {

using test::byte_at;
using test::k_free_address;
using test::make_arena;
using test::number;
using test::usage;

/// Runs `body` in a child and returns its wait status: the exit status is the number of the first expectation that
/// failed.
class Expectations {
public:
    void that(bool holds) noexcept {
        ++number_;
        if (!holds && failed_ == 0) failed_ = number_;
    }
    [[nodiscard]] int failed() const noexcept { return failed_; }

private:
    int number_ = 0;
    int failed_ = 0;
};

int wait_for(pid_t child) {
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
}

template <typename Body>
int status_of_child(Body&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        Expectations expect;
        body(expect);
        ::_exit(expect.failed());
    }
    return wait_for(child);
}

class ArenaFork : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = make_arena({.name = "parent", .pages = PageCount{8}, .user_vm_start = UserAddress{k_free_address}});
        ASSERT_NE(arena_, nullptr);
        ASSERT_TRUE(arena_->alloc_pages(PageCount{2}));
        std::memset(arena_->data(), 0x5a, 2 * k_page_size);
    }
    void TearDown() override {
        for (std::uint64_t i = 0; i < 2 * k_page_size; ++i) ASSERT_EQ(arena_->data()[i], std::byte{0x5a});
        EXPECT_EQ(usage(*arena_), "2 0");
        ASSERT_TRUE(arena_->alloc_pages(PageCount{6}));
    }
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaFork, every_function_of_the_childs_arena_answers_EOWNERDEAD) {
    EXPECT_EQ(status_of_child([&](Expectations& expect) {
                  const auto dead = [&](const auto& result) {
                      expect.that(!result && result.error().code() == EOWNERDEAD);
                  };
                  dead(arena_->alloc_pages(PageCount{1}));
                  dead(arena_->free_pages(arena_->data(), PageCount{1}));
                  dead(arena_->reserve_pages(arena_->data() + 4 * k_page_size, PageCount{1}));
                  dead(arena_->populate(arena_->data(), 1));
                  dead(arena_->statistics());
                  expect.that(arena_->kfunc_alloc_pages(0, 1, -1, 0) == 0);
                  arena_->kfunc_free_pages(number(arena_->data()), 2);
                  expect.that(arena_->kfunc_reserve_pages(number(arena_->data()) + 4 * k_page_size, 1) == -EOWNERDEAD);
                  expect.that(arena_->name() == "parent" && arena_->pages() == PageCount{8});
              }),
              0);
}

TEST_F(ArenaFork, the_child_inherits_neither_mappings_nor_descriptors) {
    const std::size_t descriptors = test::open_descriptors();
    EXPECT_EQ(status_of_child([&](Expectations& expect) {
                  expect.that(test::count_mappings("harena:parent") == 0);
                  expect.that(test::open_descriptors() == descriptors - 2);
              }),
              0);
}

TEST_F(ArenaFork, the_range_is_closed_in_the_child) {
    EXPECT_EQ(status_of_child([&](Expectations& expect) {
                  const std::uint64_t begin = k_free_address - Window::k_guard_below;
                  const auto first = os::find_mapping(begin, 1);
                  expect.that(first && first->find("---p") != std::string::npos);
                  const auto last = os::find_mapping(begin + Window::k_span_bytes - 1, 1);
                  expect.that(last && *last == *first);
                  expect.that(nofault::load(number(arena_->data()), 8).faulted == 1);
              }),
              0);
}

TEST_F(ArenaFork, a_touch_in_the_child_is_SIGSEGV) {
    const pid_t child = ::fork();
    if (child == 0) {
        (void)std::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would exit
        byte_at(arena_->data()) = 1;
        ::_exit(0);
    }
    const int status = wait_for(child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << status;
}

TEST_F(ArenaFork, the_child_may_destroy_its_copy_and_make_arenas_of_its_own_in_the_same_place) {
    EXPECT_EQ(status_of_child([&](Expectations& expect) {
                  const auto taken =
                      ProcessArena::create({.pages = PageCount{1}, .user_vm_start = UserAddress{k_free_address}});
                  expect.that(!taken && taken.error().code() == EEXIST);
                  arena_.reset();
                  expect.that(!os::find_mapping(k_free_address - Window::k_guard_below, Window::k_span_bytes));
                  const auto own = ProcessArena::create({.pages = PageCount{4},
                                                         .user_vm_start = UserAddress{k_free_address},
                                                         .tuning = {.exact_presence = true}});
                  expect.that(own.has_value());
                  if (!own) return;
                  byte_at((*own)->data()) = 1;
                  expect.that((*own)->alloc_pages(PageCount{1}).has_value());
                  expect.that(usage(**own) == "2 0");
                  expect.that(nofault::load(number((*own)->data()) + 3 * k_page_size, 8).faulted == 1);
                  // And so on in the next generation.
                  expect.that(status_of_child([&](Expectations& grandchild) {
                                  grandchild.that((*own)->statistics().error().code() == EOWNERDEAD);
                              }) == 0);
                  expect.that(usage(**own) == "2 0");
              }),
              0);
}

TEST_F(ArenaFork, an_arena_that_was_destroyed_before_the_fork_leaves_nothing_in_the_child) {
    make_arena({.name = "gone", .pages = PageCount{1}, .user_vm_start = UserAddress{k_free_address + 16 * k_gib}});
    EXPECT_EQ(status_of_child([&](Expectations& expect) {
                  expect.that(
                      !os::find_mapping(k_free_address + 16 * k_gib - Window::k_guard_below, Window::k_span_bytes));
              }),
              0);
}

// Threads create, touch, allocate and destroy while another one forks: no child hangs, none inherits anything.
TEST_F(ArenaFork, at_any_moment_of_other_threads_leaves_the_child_whole) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    threads.reserve(2);
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            while (!stop) {
                const auto arena = make_arena({.name = "busy", .pages = PageCount{4}});
                ASSERT_NE(arena, nullptr);
                byte_at(arena->data()) = 1;
                void* const page = arena->alloc_pages(PageCount{1}).value();
                ASSERT_TRUE(arena->free_pages(page, PageCount{1}));
            }
        });
    const int forks = test::k_sanitized ? 10 : 60;
    for (int turn = 0; turn < forks; ++turn) {
        const int status = status_of_child([&](Expectations& expect) {
            // No more than the system calls that a child of a process with threads may make.
            expect.that(arena_->kfunc_alloc_pages(0, 1, -1, 0) == 0);
            expect.that(nofault::load(number(arena_->data()), 8).faulted == 1);
            if (test::k_sanitized) return;
            expect.that(test::count_mappings("harena:busy") == 0);
            expect.that(test::count_mappings("harena:parent") == 0);
            const auto own = ProcessArena::create({.pages = PageCount{1}});
            expect.that(own.has_value());
            if (own) byte_at((*own)->data()) = 1;
        });
        EXPECT_EQ(status, 0) << turn;
        if (status != 0) break;
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
}

// Descriptors of an arena that another thread is destroying must not survive in the child either.
TEST_F(ArenaFork, beside_creation_and_destruction_leaks_no_descriptor_into_the_child) {
    if (test::k_sanitized) GTEST_SKIP() << "looks at more than a child of threads may under sanitizers";
    std::atomic<bool> stop{false};
    const std::size_t descriptors = test::open_descriptors();
    std::thread thread{[&] {
        while (!stop) (void)make_arena(1);
    }};
    for (int turn = 0; turn < 200; ++turn) {
        const int status =
            status_of_child([&](Expectations& expect) { expect.that(test::open_descriptors() == descriptors - 2); });
        EXPECT_EQ(status, 0) << turn;
        if (status != 0) break;
    }
    stop = true;
    thread.join();
}

}  // namespace
}  // namespace harena
