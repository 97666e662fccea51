// SPDX-License-Identifier: Apache-2.0
//
// The kernel does not take memory back: nothing is lost, and nobody's charge is.
#include <cerrno>
#include <cstring>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::byte_at;
using test::page_at;
using test::refused;
using test::usage;

constexpr std::uint64_t k_pages = 1'024;

class ArenaRefusedPunch : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = test::make_tuned_arena({.pages = PageCount{k_pages},
                                         .tuning = {.recycle = PageCount{k_pages},
                                                    .huge_pages = HugePages::never,
                                                    .deterministic = true,
                                                    .account = account_}});
        ASSERT_NE(arena_, nullptr);
    }
    void TearDown() override {
        arena_->kfunc_free_pages(test::number(arena_->data()), k_pages);
        EXPECT_EQ(account_->used(), PageCount{0});
        ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{k_pages})));
        EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
    }
    std::uint64_t recycled() { return arena_->statistics().value().recycled.value(); }
    /// Pages from the arena's begin, freed and kept with what was written to them.
    void keep(std::uint64_t count) {
        ASSERT_TRUE(arena_->alloc_pages(PageCount{count}));
        std::memset(arena_->data(), 0xee, count * k_page_size);
        ASSERT_TRUE(arena_->free_pages(arena_->data(), PageCount{count}));
        ASSERT_EQ(recycled(), count);
    }

    std::shared_ptr<PageAccount> account_ = std::make_shared<PageAccount>("payer", PageCount{k_pages});
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaRefusedPunch, kept_pages_stay_kept_and_are_to_be_had) {
    keep(100);
    {
        FailCall injector{Call::fallocate, ENOMEM, 0, FailCall::Repeat::always};
        const ScopedFaultInjector scope{injector};
        EXPECT_TRUE(arena_->set_recycle(PageCount{0}));
        EXPECT_GE(injector.seen(), 1U);
    }
    EXPECT_EQ(recycled(), 100U);
    EXPECT_EQ(usage(*arena_), "0 0");
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{100}, {.address = arena_->data()})));
    EXPECT_TRUE(test::is_zero(arena_->data(), 100 * k_page_size));
    ASSERT_TRUE(arena_->free_pages(arena_->data(), PageCount{50}));
    EXPECT_EQ(recycled(), 0U) << "the bound holds from then on";
}

TEST_F(ArenaRefusedPunch, pages_that_stay_allocated_stay_paid_for) {
    ASSERT_TRUE(arena_->set_recycle(PageCount{0}));
    void* const pages = arena_->alloc_pages(PageCount{3}).value();
    {
        FailCall injector{Call::fallocate, ENOMEM};
        const ScopedFaultInjector scope{injector};
        EXPECT_TRUE(refused(arena_->free_pages(pages, PageCount{3}), ENOMEM, "stay allocated"));
    }
    EXPECT_EQ(usage(*arena_), "3 0");
    EXPECT_EQ(account_->used(), PageCount{3});
    EXPECT_TRUE(arena_->free_pages(pages, PageCount{3}));
    EXPECT_EQ(account_->used(), PageCount{0});
}

TEST_F(ArenaRefusedPunch, reserved_pages_stay_reserved) {
    ASSERT_TRUE(arena_->reserve_pages(arena_->data(), PageCount{5}));
    {
        FailCall injector{Call::fallocate, ENOMEM};
        const ScopedFaultInjector scope{injector};
        EXPECT_TRUE(refused(arena_->free_pages(arena_->data(), PageCount{5}), ENOMEM, "stay allocated"));
    }
    EXPECT_EQ(usage(*arena_), "0 5");
    EXPECT_TRUE(arena_->free_pages(arena_->data(), PageCount{5}));
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_F(ArenaRefusedPunch, pages_that_cannot_be_emptied_are_not_reserved_and_stay_kept) {
    keep(700);
    {
        FailCall injector{Call::fallocate, ENOMEM, 1};
        const ScopedFaultInjector scope{injector};
        EXPECT_TRUE(refused(arena_->reserve_pages(arena_->data(), PageCount{800}), ENOMEM, ""));
        EXPECT_LE(injector.seen(), 4U) << "a call for the pages of a block";
    }
    EXPECT_EQ(usage(*arena_), "0 0");
    EXPECT_GT(recycled(), 0U);
    EXPECT_TRUE(arena_->reserve_pages(arena_->data(), PageCount{800}));
    EXPECT_EQ(usage(*arena_), "0 800");
    EXPECT_EQ(recycled(), 0U);
}

/// No memory after the first call for some, and none is taken back.
class OutOfMemory final : public os::FaultInjector {
public:
    int on_call(Call call) noexcept override {
        if (call == Call::fallocate) return ENOMEM;
        return call == Call::uffd_zeropage && filled_++ > 0 ? ENOMEM : 0;
    }

private:
    int filled_ = 0;
};

TEST_F(ArenaRefusedPunch, what_a_failed_allocation_put_there_is_free_all_the_same) {
    ASSERT_TRUE(arena_->alloc_pages(PageCount{10}, {.address = page_at(*arena_, 100)}));
    byte_at(page_at(*arena_, 105)) = 5;
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, 100), PageCount{10}));
    {
        OutOfMemory out_of_memory;
        const ScopedFaultInjector scope{out_of_memory};
        EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{300}, {.address = arena_->data()}), ENOMEM, ""));
    }
    EXPECT_EQ(usage(*arena_), "0 0");
    EXPECT_EQ(recycled(), 10U);
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{300}, {.address = arena_->data()})));
    EXPECT_TRUE(test::is_zero(arena_->data(), 300 * k_page_size));
}

}  // namespace
}  // namespace harena
