// SPDX-License-Identifier: Apache-2.0
// Text that threads are inside of: sections, and what is retired meanwhile.
#include <atomic>
#include <barrier>
#include <cerrno>
#include <optional>
#include <thread>
#include <vector>

#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::all_traps;
using test::ok;
using test::refused;
using test::returning;
using test::run;
using test::traps;

class TextRunning : public test::TextTest {};

TEST_F(TextRunning, retired_text_is_freed_at_once_if_nobody_is_inside) {
    void* const text = function(1);
    bool freed = false;
    ASSERT_TRUE(ok(space_->text_retire(text, [&] { freed = true; })));
    EXPECT_TRUE(freed);
    EXPECT_TRUE(traps(text));
    EXPECT_EQ(space_->statistics().retired, 0U);
    EXPECT_EQ(space_->statistics().pieces, 0U);
}

TEST_F(TextRunning, retired_text_runs_until_the_last_thread_that_was_inside_has_left) {
    void* const text = function(1);
    std::optional<TextSection> outer{space_->enter().value()};
    std::barrier step{2};
    std::thread other{[&] {
        {
            const TextSection section = space_->enter().value();
            step.arrive_and_wait();  // both are inside
            step.arrive_and_wait();  // it is retired
            EXPECT_EQ(run(text), 1U);
        }
        step.arrive_and_wait();
    }};
    step.arrive_and_wait();
    EXPECT_EQ(space_->statistics().threads_inside, 2U);
    int freed = 0;
    ASSERT_TRUE(ok(space_->text_retire(text, [&] { ++freed; })));
    step.arrive_and_wait();
    step.arrive_and_wait();
    EXPECT_EQ(freed, 0) << "this thread is still inside";
    EXPECT_EQ(run(text), 1U);
    EXPECT_EQ(space_->statistics().retired, 1U);
    EXPECT_EQ(space_->reclaim().value(), 0U);
    outer.reset();
    EXPECT_EQ(freed, 1) << "the last to leave frees";
    EXPECT_TRUE(traps(text));
    other.join();
}

TEST_F(TextRunning, threads_that_entered_after_retiring_hold_nothing_up) {
    void* const text = function(1);
    std::optional<TextSection> before{space_->enter().value()};
    bool freed = false;
    ASSERT_TRUE(ok(space_->text_retire(text, [&] { freed = true; })));
    std::barrier step{2};
    std::thread other{[&] {
        const TextSection section = space_->enter().value();
        step.arrive_and_wait();
        step.arrive_and_wait();
    }};
    step.arrive_and_wait();
    before.reset();
    EXPECT_TRUE(freed);
    step.arrive_and_wait();
    other.join();
}

TEST_F(TextRunning, sections_nest_and_the_outermost_counts) {
    void* const text = function(1);
    bool freed = false;
    {
        const TextSection outer = space_->enter().value();
        {
            const TextSection inner = space_->enter().value();
            ASSERT_TRUE(ok(space_->text_retire(text, [&] { freed = true; })));
        }
        EXPECT_FALSE(freed);
        TextSection moved = space_->enter().value();
        const TextSection kept{std::move(moved)};
        EXPECT_FALSE(freed);
    }
    EXPECT_TRUE(freed);
}

TEST_F(TextRunning, retired_text_is_nobodys) {
    void* const text = function(1);
    const TextSection inside = space_->enter().value();
    ASSERT_TRUE(ok(space_->text_retire(text)));
    EXPECT_TRUE(refused(space_->text_retire(text), EINVAL, "retired before"));
    EXPECT_TRUE(refused(space_->text_free(text), EINVAL, "retired before"));
    EXPECT_TRUE(refused(space_->text_poke(text, returning(2)), EINVAL, "retired"));
    EXPECT_TRUE(refused(space_->text_patch(text, returning(2)), EINVAL, "retired"));
    EXPECT_EQ(run(text), 1U);
}

TEST_F(TextRunning, callbacks_may_use_the_space) {
    void* const text = function(1);
    void* next = nullptr;
    ASSERT_TRUE(ok(space_->text_retire(text, [&] { next = function(2); })));
    EXPECT_EQ(run(next), 2U);
}

TEST_F(TextRunning, threads_that_end_leave) {
    void* const text = function(1);
    bool freed = false;
    std::thread{[&] {
        auto* const forgotten = new std::optional<TextSection>{space_->enter().value()};
        EXPECT_TRUE(ok(space_->text_retire(text, [&] { freed = true; })));
        EXPECT_FALSE(freed);
        // As a thread that is cancelled would: its section is never left.
        ::operator delete(forgotten);
    }}.join();
    EXPECT_EQ(space_->reclaim().value(), 1U);
    EXPECT_TRUE(freed);
    EXPECT_EQ(space_->statistics().threads_inside, 0U);
}

TEST_F(TextRunning, many_retired_pieces_are_filled_together) {
    std::vector<void*> pieces(32);
    const std::vector<std::uint64_t> sizes(32, 16);
    ASSERT_TRUE(ok(space_->text_alloc_batch(sizes, pieces)));
    for (void* const piece : pieces) ASSERT_TRUE(ok(space_->text_poke(piece, returning(1))));
    const std::uint64_t fills = space_->statistics().trap_fills;
    {
        const TextSection inside = space_->enter().value();
        for (void* const piece : pieces) ASSERT_TRUE(ok(space_->text_retire(piece)));
        EXPECT_EQ(space_->statistics().retired, 32U);
    }
    EXPECT_EQ(space_->statistics().trap_fills - fills, 1U);
    EXPECT_TRUE(all_traps(pieces[0], 32 * 16));
}

/// Threads call what a pointer leads to; another replaces it and retires the old one, again and again. No call may meet
/// a trap, or text that is another's: each function returns the number that its text was made with.
TEST_F(TextRunning, text_that_is_replaced_all_the_time_never_traps) {
    constexpr std::uint32_t k_replacements = test::k_sanitizer ? 2'000 : 20'000;
    constexpr int k_threads = 3;
    struct Function {
        void* text;
        std::uint32_t number;
    };
    std::atomic<Function*> current{new Function{function(0), 0}};
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> wrong{0};
    std::barrier start{k_threads + 1};
    std::vector<std::thread> threads;
    for (int i = 0; i < k_threads; ++i)
        threads.emplace_back([&] {
            start.arrive_and_wait();
            while (!stop.load(std::memory_order_relaxed)) {
                const TextSection inside = space_->enter().value();
                const Function* const f = current.load(std::memory_order_acquire);
                for (int calls = 0; calls < 8; ++calls)
                    if (run(f->text) != f->number) wrong.fetch_add(1);
            }
        });
    start.arrive_and_wait();
    std::atomic<std::uint32_t> freed{0};
    for (std::uint32_t i = 1; i <= k_replacements; ++i) {
        auto* const next = new Function{function(i), i};
        Function* const old = current.exchange(next, std::memory_order_acq_rel);
        ASSERT_TRUE(ok(space_->text_retire(old->text, [old, &freed] {
            delete old;
            freed.fetch_add(1);
        })));
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong.load(), 0U);
    EXPECT_TRUE(ok(space_->reclaim()));
    EXPECT_EQ(freed.load(), k_replacements);
    EXPECT_EQ(space_->statistics().pieces, 1U);
    delete current.load();
}

}  // namespace
}  // namespace harena
