// SPDX-License-Identifier: Apache-2.0
//
// Who has what; and the pages that nobody can have: null_guard, strict_reserve.
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <memory>
#include <string>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::byte_at;
using test::k_free_address;
using test::make_tuned_arena;
using test::number;
using test::page_at;
using test::refused;
using test::usage;

/// "first+pages" of each range, with an r if it is reserved.
std::string ranges(ProcessArena& arena) {
    const auto snapshot = arena.snapshot();
    if (!snapshot) return snapshot.error().message();
    std::string text;
    for (const ArenaRange& range : *snapshot) {
        EXPECT_TRUE(range.mine);
        EXPECT_EQ(range.process, static_cast<std::uint32_t>(::getpid()));
        EXPECT_EQ(range.account, "");
        text += fmt::format("{}{}+{}{}", text.empty() ? "" : " ",
                            (number(range.address) - number(arena.data())) / k_page_size, range.pages.value(),
                            range.reserved ? "r" : "");
    }
    return text;
}

TEST(ArenaSnapshot, shows_used_and_reserved_ranges_by_address_each_as_long_as_can_be) {
    const auto arena = make_tuned_arena({.pages = PageCount{64}});
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(ranges(*arena), "");
    const auto alloc = [&](std::uint64_t page, std::uint64_t count) {
        EXPECT_TRUE(test::ok(arena->alloc_pages(PageCount{count}, {.address = page_at(*arena, page)})));
    };
    alloc(10, 3);
    alloc(0, 1);
    alloc(13, 2);
    ASSERT_TRUE(arena->reserve_pages(page_at(*arena, 15), PageCount{4}));
    byte_at(page_at(*arena, 63)) = 1;
    byte_at(page_at(*arena, 16)) = 1;
    EXPECT_EQ(ranges(*arena), "0+1 10+5 15+4r 63+1");
    ASSERT_TRUE(arena->free_pages(page_at(*arena, 12), PageCount{1}));
    ASSERT_TRUE(arena->free_pages(page_at(*arena, 17), PageCount{1}));
    EXPECT_EQ(ranges(*arena), "0+1 10+2 13+2 15+2r 18+1r 63+1");
    arena->kfunc_free_pages(number(arena->data()), 64);
    EXPECT_EQ(ranges(*arena), "") << "what is kept with its memory is nobody's";
    alloc(0, 64);
    EXPECT_EQ(ranges(*arena), "0+64");
}

// --- null_guard

class ArenaNullGuard : public test::FreshProcess {
protected:
    static constexpr std::uint64_t k_pages = 8;
    static std::shared_ptr<ProcessArena> make(ArenaTuning tuning = {}) {
        return make_tuned_arena({.pages = PageCount{k_pages},
                                 .user_vm_start = UserAddress{k_free_address & ~(4 * k_gib - 1)},
                                 .null_guard = true,
                                 .tuning = std::move(tuning)});
    }
};

TEST_F(ArenaNullGuard, the_page_at_pointer_0_is_never_handed_out) {
    const auto arena = make();
    ASSERT_NE(arena, nullptr);
    ASSERT_EQ(static_cast<std::uint32_t>(number(arena->data())), 0U);
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{k_pages}), ENOMEM, ""));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}, {.address = arena->data()}), EBUSY, ""));
    EXPECT_TRUE(refused(arena->reserve_pages(arena->data(), PageCount{1}), EBUSY, ""));
    EXPECT_EQ(arena->alloc_pages(PageCount{k_pages - 1}).value(), page_at(*arena, 1));
    EXPECT_EQ(usage(*arena), "7 0") << "it is neither used nor reserved";
    EXPECT_EQ(arena->snapshot().value().size(), 1U);
}

TEST_F(ArenaNullGuard, the_page_at_pointer_0_is_never_freed) {
    const auto arena = make();
    ASSERT_NE(arena, nullptr);
    EXPECT_TRUE(refused(arena->free_pages(arena->data(), PageCount{1}), EINVAL, "null_guard"));
    ASSERT_TRUE(arena->alloc_pages(PageCount{3}));
    EXPECT_TRUE(refused(arena->free_pages(arena->data(), PageCount{2}), EINVAL, "null_guard"));
    EXPECT_EQ(usage(*arena), "3 0") << "all or nothing";
    // A program frees around it: that pointer is not a 64-bit 0.
    arena->kfunc_free_pages(number(arena->data()), k_pages);
    arena->kfunc_free_pages(number(arena->data()), 1);
    EXPECT_EQ(usage(*arena), "0 0");
    EXPECT_FALSE(arena->alloc_pages(PageCount{k_pages}));
    EXPECT_TRUE(test::ok(arena->set_recycle(PageCount{0})));
    EXPECT_FALSE(arena->alloc_pages(PageCount{k_pages}));
}

TEST_F(ArenaNullGuard, the_page_at_pointer_0_is_not_populated) {
    const auto arena = make();
    ASSERT_NE(arena, nullptr);
    EXPECT_TRUE(refused(arena->populate(arena->data(), 1), EFAULT, "null_guard"));
    EXPECT_TRUE(refused(arena->promote(arena->data(), PageCount{k_pages}), EINVAL, ""));
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST_F(ArenaNullGuard, a_touch_of_a_neighbour_leaves_the_page_at_pointer_0_alone) {
    const auto arena = make({.fault_granule = PageCount{512}});
    ASSERT_NE(arena, nullptr);
    byte_at(page_at(*arena, 3)) = 1;
    EXPECT_EQ(usage(*arena), "7 0");
    EXPECT_TRUE(refused(arena->populate(arena->data(), 1), EFAULT, "null_guard"));
}

TEST_F(ArenaNullGuard, a_touch_of_pointer_0_is_SIGSEGV) {
    EXPECT_EXIT(test::run_as_child([] {
                    (void)std::signal(SIGSEGV, SIG_DFL);
                    (void)std::signal(SIGBUS, SIG_DFL);
                    const auto arena = make();
                    byte_at(page_at(*arena, 1)) = 1;
                    if (usage(*arena) != "1 0") std::_Exit(3);
                    byte_at(arena->data()) = 1;
                }),
                ::testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(ArenaNullGuard, an_arena_elsewhere_has_all_its_pages) {
    const auto arena = make_tuned_arena({.pages = PageCount{k_pages}, .null_guard = true});
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->alloc_pages(PageCount{k_pages}).value(), arena->data());
}

// --- strict_reserve

class ArenaStrictReserve : public test::FreshProcess {};

TEST_F(ArenaStrictReserve, populate_of_a_reserved_page_is_EFAULT) {
    const auto arena = make_tuned_arena({.pages = PageCount{4}, .strict_reserve = true});
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->reserve_pages(page_at(*arena, 1), PageCount{1}));
    EXPECT_TRUE(refused(arena->populate(arena->data(), 2 * k_page_size), EFAULT, "strict_reserve"));
    EXPECT_EQ(usage(*arena), "1 1");
    ASSERT_TRUE(arena->free_pages(page_at(*arena, 1), PageCount{1}));
    EXPECT_TRUE(test::ok(arena->populate(arena->data(), 2 * k_page_size)));
}

TEST_F(ArenaStrictReserve, a_touch_of_a_reserved_page_is_SIGSEGV) {
    EXPECT_EXIT(test::run_as_child([] {
                    (void)std::signal(SIGSEGV, SIG_DFL);
                    (void)std::signal(SIGBUS, SIG_DFL);
                    const auto arena = make_tuned_arena({.pages = PageCount{4}, .strict_reserve = true});
                    if (!arena->reserve_pages(page_at(*arena, 1), PageCount{1})) std::_Exit(3);
                    byte_at(page_at(*arena, 0)) = 1;
                    if (usage(*arena) != "1 1") std::_Exit(3);
                    byte_at(page_at(*arena, 1)) = 1;
                }),
                ::testing::KilledBySignal(SIGSEGV), "");
}

}  // namespace
}  // namespace harena
