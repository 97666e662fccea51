// SPDX-License-Identifier: Apache-2.0
// Text that is changed while threads run it.
#include <atomic>
#include <barrier>
#include <cerrno>
#include <thread>
#include <vector>

#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::k_trap;
using test::ok;
using test::plus;
using test::refused;
using test::returning;
using test::run;
using test::traps;

/// Two halves that say the same: a mixture of two numbers is none.
constexpr std::uint32_t number_of(std::uint32_t i) { return (i & 0xffff) << 16 | (~i & 0xffff); }
constexpr bool is_whole(std::uint32_t number) { return number == number_of(number >> 16); }

class TextPatch : public test::TextTest {
protected:
    /// The first instruction of a function that returns number i.
    static std::vector<std::byte> instruction(std::uint32_t i) {
        const auto code = returning(number_of(i));
        return {code.begin(), code.begin() + 5};
    }
    void* patched_function() {
        void* const text = space_->text_alloc(16, {.alignment = 16}).value();
        EXPECT_TRUE(ok(space_->text_poke(text, returning(number_of(0)))));
        return text;
    }
    /// Threads call the function while `mode` changes it.
    void change(void* text, TextPatchMode mode, std::uint32_t patches) {
        constexpr int k_threads = 2;
        std::atomic<bool> stop{false};
        std::atomic<std::uint64_t> wrong{0};
        std::barrier start{k_threads + 1};
        std::vector<std::thread> threads;
        for (int i = 0; i < k_threads; ++i)
            threads.emplace_back([&] {
                start.arrive_and_wait();
                while (!stop.load(std::memory_order_relaxed))
                    if (!is_whole(run(text))) wrong.fetch_add(1);
            });
        start.arrive_and_wait();
        for (std::uint32_t i = 1; i <= patches; ++i) {
            const bool patched = ok(space_->text_patch(text, instruction(i), mode));
            EXPECT_TRUE(patched);
            if (!patched) break;
            EXPECT_TRUE(mode == TextPatchMode::plain || run(text) == number_of(i));
        }
        stop = true;
        for (std::thread& thread : threads) thread.join();
        EXPECT_EQ(wrong.load(), 0U);
        EXPECT_EQ(run(text), number_of(patches));
    }
};

TEST_F(TextPatch, threads_see_the_old_or_the_new_instruction_by_way_of_a_breakpoint) {
    change(patched_function(), TextPatchMode::breakpoint, test::k_sanitizer ? 500 : 5'000);
}

TEST_F(TextPatch, threads_see_the_old_or_the_new_instruction_by_plain_patches_where_they_are_permitted) {
    if (const auto permitted = space_->plain_patches_permitted(); !permitted)
        GTEST_SKIP() << permitted.error().message();
    change(patched_function(), TextPatchMode::plain, test::k_sanitizer ? 5'000 : 200'000);
}

TEST_F(TextPatch, breakpoint_works_across_a_cache_line_and_a_page) {
    for (const std::uint64_t boundary : {64UL, 4096UL}) {
        void* const piece = space_->text_alloc(2 * boundary, {.alignment = boundary}).value();
        void* const text = plus(piece, boundary - 3);
        ASSERT_TRUE(ok(space_->text_poke(text, returning(number_of(0)))));
        change(text, TextPatchMode::breakpoint, test::k_sanitizer ? 200 : 1'000);
    }
}

TEST_F(TextPatch, one_byte_and_the_longest_patch_are_had) {
    void* const text = space_->text_alloc(80).value();
    ASSERT_TRUE(ok(space_->text_poke(text, returning(0x11223344))));
    const std::array byte{std::byte{0x55}};
    ASSERT_TRUE(ok(space_->text_patch(plus(text, 1), byte)));
    EXPECT_EQ(run(text), 0x11223355U);
    std::vector<std::byte> long_one(64, std::byte{0x90});
    ASSERT_TRUE(ok(space_->text_patch(text, long_one)));
    EXPECT_EQ(std::memcmp(text, long_one.data(), 64), 0);
    EXPECT_EQ(space_->statistics().patches, 2U);
}

TEST_F(TextPatch, bad_patches_are_refused) {
    void* const text = function(1);
    const std::vector<std::byte> bytes(65);
    EXPECT_TRUE(refused(space_->text_patch(text, {}), EINVAL, "0 bytes"));
    EXPECT_TRUE(refused(space_->text_patch(text, bytes), EINVAL, "65 bytes"));
    EXPECT_TRUE(refused(space_->text_patch(plus(text, 3), std::span{bytes}.first(5)), ERANGE, "beyond the end"));
    EXPECT_TRUE(refused(space_->text_patch(this, std::span{bytes}.first(1)), EINVAL, "in no piece"));
    EXPECT_TRUE(refused(space_->text_patch(plus(text, 4), std::span{bytes}.first(5), TextPatchMode::plain), EINVAL,
                        "one aligned word"));
    EXPECT_EQ(run(text), 1U);
}

TEST_F(TextPatch, traps_that_are_none_of_a_patch_go_to_the_handler_that_was_there_before) {
    void* const text = patched_function();
    ASSERT_TRUE(ok(space_->text_patch(text, instruction(1))));
    EXPECT_TRUE(traps(plus(text, 6))) << "never patched";
    // A trap that is meant, in the very place.
    ASSERT_TRUE(ok(space_->text_patch(text, std::array{k_trap})));
    EXPECT_TRUE(traps(text));
    int outside = 0;
    {
        // Not in text of ours at all; and sent by somebody.
        sigjmp_buf here;
        if (sigsetjmp(here, 1) == 0) {
            test::on_trap = &here;
            (void)::raise(SIGTRAP);
        } else {
            ++outside;
        }
        test::on_trap = nullptr;
    }
    EXPECT_EQ(outside, 1);
}

TEST_F(TextPatch, use_after_free_of_a_patched_piece_traps) {
    void* const text = patched_function();
    ASSERT_TRUE(ok(space_->text_patch(text, instruction(1))));
    ASSERT_TRUE(ok(space_->text_free(text)));
    EXPECT_TRUE(traps(text));
    // Nor is it remembered for the next one.
    void* const again = space_->text_alloc(16).value();
    EXPECT_TRUE(traps(again));
}

TEST_F(TextPatch, several_threads_patch_in_turn) {
    std::array<void*, 4> texts{};
    for (void*& text : texts) text = patched_function();
    std::vector<std::thread> threads;
    constexpr std::uint32_t k_patches = test::k_sanitizer ? 100 : 1'000;
    for (unsigned i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            for (std::uint32_t n = 1; n <= k_patches; ++n) {
                EXPECT_TRUE(ok(space_->text_patch(texts[i], instruction(n))));
                EXPECT_EQ(run(texts[i]), number_of(n));
                EXPECT_TRUE(is_whole(run(texts[(i + 1) % 4])));
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(space_->statistics().patches, 4U * k_patches);
}

TEST_F(TextPatch, all_threads_can_be_synchronised) { EXPECT_TRUE(ok(TextSpace::sync_all_threads())); }

}  // namespace
}  // namespace harena
