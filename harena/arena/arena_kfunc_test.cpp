// SPDX-License-Identifier: Apache-2.0
//
// The calls that a program can make, with the results of Linux, quirks included: one test a rule of the contract.
#include <cerrno>
#include <ostream>
#include <string_view>
#include <thread>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::k_free_address;
using test::make_arena;
using test::number;
using test::usage;

struct Tuned {
    std::string_view name;
    ArenaTuning tuning;
};
void PrintTo(const Tuned& tuned, std::ostream* out) { *out << tuned.name; }

/// 16 pages at 64 MiB in their window: there are addresses below and behind.
class ArenaKfunc : public ::testing::TestWithParam<Tuned> {
protected:
    static constexpr std::uint64_t k_start = k_free_address + 64 * k_mib;
    static constexpr std::uint32_t k_pages = 16;

    void SetUp() override {
        arena_ = test::make_tuned_arena({.name = "kfunc",
                                         .pages = PageCount{k_pages},
                                         .user_vm_start = UserAddress{k_start},
                                         .tuning = GetParam().tuning});
        ASSERT_NE(arena_, nullptr);
    }

    /// The address of a page, also one outside.
    static std::uint64_t at(std::int64_t page) { return k_start + static_cast<std::uint64_t>(page) * k_page_size; }
    static std::uint64_t low(std::uint64_t address) { return static_cast<std::uint32_t>(address); }
    std::uint64_t alloc(std::uint64_t address, std::uint32_t count, std::int32_t node = -1, std::uint64_t flags = 0) {
        return arena_->kfunc_alloc_pages(address, count, node, flags);
    }
    void free(std::uint64_t address, std::uint32_t count) { arena_->kfunc_free_pages(address, count); }
    std::int32_t reserve(std::uint64_t address, std::uint32_t count) {
        return arena_->kfunc_reserve_pages(address, count);
    }
    void expect_usage(const std::string& expected) { EXPECT_EQ(usage(*arena_), expected); }

    std::shared_ptr<ProcessArena> arena_;
};

INSTANTIATE_TEST_SUITE_P(Tunings, ArenaKfunc,
                         ::testing::Values(Tuned{"exact", {.exact_presence = true}},
                                           Tuned{"deterministic", {.deterministic = true}},
                                           Tuned{"not kept", {.recycle = PageCount{0}}}, Tuned{"default", {}}));

TEST_P(ArenaKfunc, alloc_returns_zeroed_pages_at_the_full_user_address) {
    const std::uint64_t pages = alloc(0, 2);
    EXPECT_EQ(pages, k_start) << "the high 32 bits are those of user_vm_start";
    EXPECT_TRUE(test::is_zero(arena_->data(), 2 * k_page_size));
    expect_usage("2 0");
}

TEST_P(ArenaKfunc, alloc_returns_null_for_flags) {
    EXPECT_EQ(alloc(0, 1, -1, 1), 0U);
    EXPECT_EQ(alloc(0, 1, -1, std::uint64_t{1} << 63), 0U);
    expect_usage("0 0");
}

TEST_P(ArenaKfunc, alloc_returns_null_for_no_page) {
    EXPECT_EQ(alloc(0, 0), 0U);
    EXPECT_EQ(alloc(at(0), 0), 0U);
}

TEST_P(ArenaKfunc, alloc_returns_null_for_more_pages_than_the_arena) {
    EXPECT_EQ(alloc(0, k_pages + 1), 0U);
    EXPECT_EQ(alloc(0, ~0U), 0U);
    EXPECT_EQ(alloc(at(0), ~0U), 0U);
    EXPECT_EQ(alloc(0, k_pages), k_start);
}

TEST_P(ArenaKfunc, alloc_returns_null_for_a_bad_node) {
    EXPECT_EQ(alloc(0, 1, -2), 0U);
    EXPECT_EQ(alloc(0, 1, 1 << 20), 0U);
    EXPECT_EQ(alloc(0, 1, INT32_MIN), 0U);
    EXPECT_NE(alloc(0, 1, -1), 0U);
    EXPECT_NE(alloc(0, 1, 0), 0U);
}

TEST_P(ArenaKfunc, alloc_returns_null_for_unaligned_address) {
    EXPECT_EQ(alloc(at(1) + 1, 1), 0U);
    EXPECT_EQ(alloc(at(1) + 4095, 1), 0U);
    EXPECT_EQ(alloc(1, 1), 0U);
    expect_usage("0 0");
}

TEST_P(ArenaKfunc, alloc_returns_null_for_a_range_outside) {
    EXPECT_EQ(alloc(at(k_pages), 1), 0U);
    EXPECT_EQ(alloc(at(k_pages - 1), 2), 0U);
    EXPECT_EQ(alloc(at(-1), 1), 0U);
    EXPECT_EQ(alloc(at(-1), 2), 0U);
    EXPECT_EQ(alloc(at(1), k_pages), 0U);
    expect_usage("0 0");
}

TEST_P(ArenaKfunc, alloc_returns_null_if_any_page_is_in_use_or_reserved) {
    ASSERT_EQ(alloc(at(4), 1), at(4));
    ASSERT_EQ(reserve(at(8), 1), 0);
    test::byte_at(reinterpret_cast<void*>(at(12))) = 1;  // the host's touch is a use
    for (const std::int64_t page : {4, 8, 12}) {
        EXPECT_EQ(alloc(at(page), 1), 0U) << page;
        EXPECT_EQ(alloc(at(page - 1), 2), 0U) << page;
        EXPECT_EQ(alloc(at(page), 2), 0U) << page;
        EXPECT_EQ(alloc(at(page - 1), 3), 0U) << page;
    }
    expect_usage("2 1");
}

TEST_P(ArenaKfunc, alloc_returns_null_when_no_range_is_large_enough) {
    ASSERT_EQ(alloc(at(8), 1), at(8));
    EXPECT_EQ(alloc(0, 9), 0U);
    EXPECT_EQ(alloc(0, 8), at(0));
}

TEST_P(ArenaKfunc, alloc_ignores_the_high_32_bits_of_the_address) {
    EXPECT_EQ(alloc(low(at(3)), 1), at(3));
    EXPECT_EQ(alloc(low(at(5)) | std::uint64_t{0xdeadbeef} << 32, 2), at(5));
}

TEST_P(ArenaKfunc, alloc_takes_only_a_64_bit_zero_for_anywhere) {
    // Pointer 0 of the window is below this arena: an address like any other, and outside.
    EXPECT_EQ(alloc(std::uint64_t{7} << 32, 1), 0U);
    EXPECT_EQ(alloc(0, 1), at(0));
}

TEST_P(ArenaKfunc, alloc_anywhere_takes_the_start_of_the_smallest_sufficient_range) {
    ASSERT_NE(alloc(at(5), 1), 0U);   // 0-5
    ASSERT_NE(alloc(at(9), 1), 0U);   // 6-9
    ASSERT_NE(alloc(at(12), 1), 0U);  // 10-12, 13-16
    EXPECT_EQ(alloc(0, 2), at(10));
    EXPECT_EQ(alloc(0, 4), at(0));
    EXPECT_EQ(alloc(0, 1), at(4));
}

TEST_P(ArenaKfunc, alloc_can_be_called_while_the_caller_holds_a_lock) {
    std::mutex lock;
    const std::lock_guard held{lock};
    EXPECT_NE(alloc(0, 1), 0U);
}

TEST_P(ArenaKfunc, free_does_nothing_for_a_64_bit_null_or_no_page) {
    ASSERT_EQ(alloc(0, k_pages), at(0));
    free(0, k_pages);
    free(at(0), 0);
    expect_usage("16 0");
}

TEST_P(ArenaKfunc, free_truncates_the_pointer_to_32_bits_and_rounds_it_down_to_a_page) {
    ASSERT_EQ(alloc(0, k_pages), at(0));
    free(low(at(2)), 1);
    EXPECT_EQ(alloc(0, 1), at(2));
    free((low(at(3)) + 4095) | std::uint64_t{0xbad} << 32, 1);
    EXPECT_EQ(alloc(0, 1), at(3));
    free(at(4) + 1, 1);
    expect_usage("15 0");
    EXPECT_EQ(alloc(0, 1), at(4));
}

TEST_P(ArenaKfunc, free_of_a_range_that_begins_below_the_arena_does_nothing) {
    ASSERT_EQ(alloc(0, k_pages), at(0));
    free(at(-1), 2);
    free(at(-1) + 4095, 3);
    free(std::uint64_t{1} << 32, ~0U);
    expect_usage("16 0");
}

TEST_P(ArenaKfunc, free_is_clipped_at_the_end) {
    ASSERT_EQ(alloc(0, k_pages), at(0));
    free(at(k_pages), 1);
    free(at(k_pages + 5), ~0U);
    expect_usage("16 0");
    free(at(14), 100);
    expect_usage("14 0");
    free(at(1), ~0U);
    expect_usage("1 0");
}

TEST_P(ArenaKfunc, free_skips_absent_pages) {
    ASSERT_EQ(alloc(at(2), 1), at(2));
    ASSERT_EQ(alloc(at(4), 1), at(4));
    free(at(0), k_pages);
    expect_usage("0 0");
    free(at(0), k_pages);
    EXPECT_EQ(alloc(0, k_pages), at(0));
}

TEST_P(ArenaKfunc, free_makes_reserved_pages_free) {
    ASSERT_EQ(reserve(at(0), k_pages), 0);
    EXPECT_EQ(alloc(0, 1), 0U);
    free(at(3), 2);
    expect_usage("0 14");
    EXPECT_EQ(alloc(0, 2), at(3));
}

TEST_P(ArenaKfunc, freed_pages_read_zero_after_reallocation) {
    ASSERT_EQ(alloc(0, 1), at(0));
    test::byte_at(arena_->data()) = 0xff;
    free(at(0), 1);
    ASSERT_EQ(alloc(0, 1), at(0));
    EXPECT_TRUE(test::is_zero(arena_->data(), k_page_size));
}

TEST_P(ArenaKfunc, reserve_of_no_page_is_0_wherever) {
    EXPECT_EQ(reserve(at(0), 0), 0);
    EXPECT_EQ(reserve(at(k_pages + 9), 0), 0);
    EXPECT_EQ(reserve(1, 0), 0);
    expect_usage("0 0");
}

TEST_P(ArenaKfunc, reserve_takes_null_for_an_address_like_any_other) { EXPECT_EQ(reserve(0, 1), -EINVAL); }

TEST_P(ArenaKfunc, reserve_ignores_the_high_32_bits) {
    EXPECT_EQ(reserve(low(at(1)), 1), 0);
    EXPECT_EQ(reserve(low(at(2)) | std::uint64_t{0xabc} << 32, 1), 0);
    expect_usage("0 2");
}

TEST_P(ArenaKfunc, reserve_of_an_unaligned_pointer_is_0_and_does_nothing) {
    EXPECT_EQ(reserve(at(0) + 1, 1), 0);
    EXPECT_EQ(reserve(at(k_pages) + 1, 1), 0);
    expect_usage("0 0");
}

TEST_P(ArenaKfunc, reserve_past_the_end_is_EINVAL) {
    EXPECT_EQ(reserve(at(k_pages), 1), -EINVAL);
    EXPECT_EQ(reserve(at(k_pages - 1), 2), -EINVAL);
    EXPECT_EQ(reserve(at(-1), 1), -EINVAL);
    EXPECT_EQ(reserve(at(-1), 2), -EINVAL);
    EXPECT_EQ(reserve(at(0), ~0U), -EINVAL);
    EXPECT_EQ(reserve(at(0), k_pages), 0);
}

TEST_P(ArenaKfunc, reserve_of_pages_in_use_or_reserved_is_EBUSY_and_reserves_none) {
    ASSERT_EQ(alloc(at(4), 1), at(4));
    ASSERT_EQ(reserve(at(8), 1), 0);
    test::byte_at(reinterpret_cast<void*>(at(12))) = 1;
    for (const std::int64_t page : {4, 8, 12}) {
        EXPECT_EQ(reserve(at(page), 1), -EBUSY) << page;
        EXPECT_EQ(reserve(at(page - 1), 2), -EBUSY) << page;
        EXPECT_EQ(reserve(at(page - 2), 4), -EBUSY) << page;
    }
    expect_usage("2 1");
}

/// One that begins at pointer 0, where 32 zero bits are a page.
class ArenaKfuncWholeWindow : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ =
            make_arena({.name = "whole", .pages = Arena::k_max_pages, .user_vm_start = UserAddress{k_free_address}});
        ASSERT_NE(arena_, nullptr);
    }
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaKfuncWholeWindow, a_pointer_with_32_zero_bits_asks_for_that_very_page) {
    ASSERT_EQ(arena_->kfunc_alloc_pages(k_free_address, 1, -1, 0), k_free_address);
    EXPECT_EQ(arena_->kfunc_alloc_pages(k_free_address, 1, -1, 0), 0U);
    EXPECT_EQ(arena_->kfunc_alloc_pages(std::uint64_t{9} << 32, 1, -1, 0), 0U);
    arena_->kfunc_free_pages(0, 1);  // null
    EXPECT_EQ(usage(*arena_), "1 0");
    arena_->kfunc_free_pages(std::uint64_t{9} << 32, 1);
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_F(ArenaKfuncWholeWindow, reserve_of_null_reserves_page_0) {
    EXPECT_EQ(arena_->kfunc_reserve_pages(0, 1), 0);
    EXPECT_EQ(usage(*arena_), "0 1");
    EXPECT_EQ(arena_->kfunc_alloc_pages(0, 1, -1, 0), k_free_address + k_page_size);
}

TEST_F(ArenaKfuncWholeWindow, the_last_page_is_reached_and_nothing_wraps) {
    constexpr std::uint64_t k_last = k_free_address + 4 * k_gib - k_page_size;
    EXPECT_EQ(arena_->kfunc_alloc_pages(k_last, 2, -1, 0), 0U);
    EXPECT_EQ(arena_->kfunc_reserve_pages(k_last, 2), -EINVAL);
    ASSERT_EQ(arena_->kfunc_alloc_pages(k_last, 1, -1, 0), k_last);
    ASSERT_EQ(arena_->kfunc_alloc_pages(k_free_address, 1, -1, 0), k_free_address);
    arena_->kfunc_free_pages(k_last, 5);
    EXPECT_EQ(usage(*arena_), "1 0") << "page 0 is not behind the last";
    EXPECT_EQ(arena_->kfunc_reserve_pages(k_free_address + k_page_size, (1U << 20) - 1), 0);
    EXPECT_EQ(usage(*arena_), "1 1048575");
    arena_->kfunc_free_pages(k_last, ~0U);
    arena_->kfunc_free_pages(k_free_address, ~0U);
    EXPECT_EQ(usage(*arena_), "0 0");
}

/// One page at the very top of the window.
TEST(ArenaKfuncTop, an_arena_at_the_top_of_its_window) {
    constexpr std::uint64_t k_top = k_free_address + 4 * k_gib - k_page_size;
    const auto arena = make_arena({.pages = PageCount{1}, .user_vm_start = UserAddress{k_top}});
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->kfunc_alloc_pages(0xffff'f000, 1, -1, 0), k_top);
    EXPECT_EQ(arena->kfunc_alloc_pages(0, 1, -1, 0), 0U);
    arena->kfunc_free_pages(0xffff'ffff, 2);
    EXPECT_EQ(usage(*arena), "0 0");
    EXPECT_EQ(arena->kfunc_reserve_pages(0, 1), -EINVAL);
    EXPECT_EQ(arena->kfunc_reserve_pages(0xffff'f000, 2), -EINVAL);
    EXPECT_EQ(arena->kfunc_reserve_pages(0xffff'f000, 1), 0);
}

TEST(ArenaKfuncCancel, an_allocation_that_is_cancelled_gives_everything_back) {
    const auto arena = make_arena(2000);
    ASSERT_NE(arena, nullptr);
    std::atomic<bool> cancel{true};
    EXPECT_EQ(arena->kfunc_alloc_pages(0, 2000, -1, 0, &cancel), 0U);
    EXPECT_EQ(usage(*arena), "0 0");
    cancel = false;
    const std::uint64_t first = arena->kfunc_alloc_pages(0, 2000, -1, 0, &cancel);
    EXPECT_NE(first, 0U) << "all of them are free again";
    cancel = true;
    arena->kfunc_free_pages(first, 2000, &cancel);
    EXPECT_EQ(usage(*arena), "2000 0") << "a free that is cancelled leaves the rest";
    arena->kfunc_free_pages(first, 2000);
    EXPECT_EQ(usage(*arena), "0 0");
}

}  // namespace
}  // namespace harena
