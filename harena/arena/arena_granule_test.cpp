// SPDX-License-Identifier: Apache-2.0
//
// ArenaTuning::fault_granule: a touch makes the absent pages around it used, too.
#include <cerrno>
#include <cstring>
#include <memory>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::byte_at;
using test::make_tuned_arena;
using test::page_at;
using test::refused;
using test::usage;

/// With an arena whose last granule is cut off.
class ArenaGranule : public ::testing::TestWithParam<std::uint64_t> {
protected:
    static constexpr std::uint64_t k_pages = 1'000;

    void SetUp() override { make({.fault_granule = PageCount{GetParam()}}); }
    void make(ArenaTuning tuning) {
        arena_ = make_tuned_arena({.pages = PageCount{k_pages}, .tuning = std::move(tuning)});
        ASSERT_NE(arena_, nullptr);
    }
    void touch(std::uint64_t page) { byte_at(page_at(*arena_, page) + 123) = 0x77; }
    void expect_used(std::uint64_t pages) { EXPECT_EQ(arena_->statistics().value().used, PageCount{pages}); }
    /// The first page of the granule of `page`, and the one behind its last.
    [[nodiscard]] static std::uint64_t begin(std::uint64_t page) { return page - page % GetParam(); }
    [[nodiscard]] static std::uint64_t end(std::uint64_t page) { return std::min(begin(page) + GetParam(), k_pages); }

    std::shared_ptr<ProcessArena> arena_;
};
INSTANTIATE_TEST_SUITE_P(Pages, ArenaGranule, ::testing::Values(1U, 16U, 512U),
                         [](const auto& granule) { return std::to_string(granule.param); });

TEST_P(ArenaGranule, neighbours_count_as_allocated) {
    touch(20);
    expect_used(GetParam());
    EXPECT_EQ(test::host_faults(*arena_), 1U);
    for (const std::uint64_t page : {begin(20), end(20) - 1}) {
        EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, page)}), EBUSY, ""));
        EXPECT_EQ(byte_at(page_at(*arena_, page)), 0);
    }
    EXPECT_EQ(test::host_faults(*arena_), 1U) << "no further fault";
    EXPECT_TRUE(test::ok(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, end(20))})));
    if (begin(20) != 0) {
        EXPECT_TRUE(test::ok(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, begin(20) - 1)})));
    }
    EXPECT_EQ(byte_at(page_at(*arena_, 20) + 123), 0x77);
}

TEST_P(ArenaGranule, ends_with_the_arena) {
    touch(k_pages - 1);
    expect_used(end(k_pages - 1) - begin(k_pages - 1));
    arena_->kfunc_free_pages(test::number(arena_->data()), k_pages);
    touch(0);
    expect_used(GetParam());
}

TEST_P(ArenaGranule, used_and_reserved_pages_stay_what_they_are) {
    std::memset(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, 17)}).value(), 0x11, k_page_size);
    ASSERT_TRUE(arena_->reserve_pages(page_at(*arena_, 30), PageCount{1}));
    touch(20);
    EXPECT_EQ(byte_at(page_at(*arena_, 17) + 4095), 0x11);
    EXPECT_EQ(arena_->statistics().value().reserved, PageCount{1});
    // What is not absent ends what becomes used.
    expect_used(1 + std::min<std::uint64_t>(GetParam(), 30 - 18));
}

TEST_P(ArenaGranule, recycled_pages_stay_free) {
    std::byte* const page =
        static_cast<std::byte*>(arena_->alloc_pages(PageCount{2}, {.address = page_at(*arena_, 22)}).value());
    ASSERT_TRUE(arena_->free_pages(page, PageCount{2}));
    touch(21);
    EXPECT_EQ(arena_->statistics().value().recycled, PageCount{2});
    EXPECT_TRUE(test::ok(arena_->alloc_pages(PageCount{2}, {.address = page})));
}

TEST_P(ArenaGranule, the_account_pays_for_all_or_where_its_limit_is_nearer_for_the_touched_one) {
    const auto account = std::make_shared<PageAccount>("host", PageCount{GetParam() + 1});
    make({.recycle = PageCount{0}, .fault_granule = PageCount{GetParam()}, .account = account});
    touch(20);
    EXPECT_EQ(account->used(), PageCount{GetParam()});
    touch(600);
    EXPECT_EQ(account->used(), PageCount{GetParam() + 1});
    expect_used(GetParam() + 1);
    EXPECT_EQ(byte_at(page_at(*arena_, 600) + 123), 0x77);
    EXPECT_EQ(arena_->alloc_pages(PageCount{1}).error().code(), ENOMEM);
    // The neighbours that were not paid for are free, and without memory.
    arena_->kfunc_free_pages(test::number(arena_->data()), k_pages);
    EXPECT_EQ(account->used(), PageCount{0});
    EXPECT_EQ(usage(*arena_), "0 0");
    touch(601);
    expect_used(end(601) - begin(601));
}

TEST_P(ArenaGranule, exact_presence_makes_it_one_page) {
    make({.fault_granule = PageCount{GetParam()}, .exact_presence = true});
    touch(20);
    expect_used(1);
}

TEST(ArenaGranuleOption, is_a_power_of_two_up_to_a_block) {
    for (const std::uint64_t granule : {0U, 3U, 511U, 1024U})
        EXPECT_TRUE(
            refused(ProcessArena::create({.pages = PageCount{8}, .tuning = {.fault_granule = PageCount{granule}}}),
                    EINVAL, "fault_granule"))
            << granule;
}

}  // namespace
}  // namespace harena
