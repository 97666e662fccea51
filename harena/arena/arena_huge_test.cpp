// SPDX-License-Identifier: Apache-2.0
//
// Pages on 2 MiB entries: asked for by range, for the whole arena, and where large allocations get them by themselves.
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"

namespace harena {
namespace {

using test::byte_at;
using test::make_tuned_arena;
using test::page_at;
using test::refused;
using test::usage;

constexpr std::uint64_t k_block = k_huge_page_size / k_page_size;

std::uint64_t on_2mib(ProcessArena& arena) { return arena.statistics().value().on_2mib.value(); }
std::uint64_t recycled(ProcessArena& arena) { return arena.statistics().value().recycled.value(); }

std::shared_ptr<ProcessArena> arena_of_blocks(std::uint64_t blocks,
                                              ArenaTuning tuning = {.huge_pages = HugePages::never}) {
    return make_tuned_arena({.pages = PageCount{blocks * k_block}, .tuning = std::move(tuning)});
}

/// Why this machine has no 2 MiB pages for arenas; empty if it has.
std::string missing() {
    const auto arena = arena_of_blocks(1);
    if (arena == nullptr) return "no arena";
    if (const auto promoted = arena->promote(arena->data(), PageCount{k_block}); !promoted)
        return promoted.error().message();
    return on_2mib(*arena) == k_block ? "" : "the kernel does not say what is on 2 MiB entries (Linux 6.7)";
}

class ArenaPromote : public ::testing::Test {
protected:
    void SetUp() override {
        if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
        arena_ = arena_of_blocks(3);
        ASSERT_NE(arena_, nullptr);
    }
    auto promote(std::uint64_t page, std::uint64_t count) {
        return arena_->promote(page_at(*arena_, page), PageCount{count});
    }
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaPromote, makes_absent_pages_used_and_zero_on_one_entry) {
    ASSERT_TRUE(test::ok(promote(k_block, k_block)));
    EXPECT_EQ(usage(*arena_), "512 0");
    EXPECT_EQ(on_2mib(*arena_), k_block);
    EXPECT_TRUE(test::is_zero(page_at(*arena_, k_block), k_huge_page_size));
    EXPECT_EQ(test::host_faults(*arena_), 0U);
    EXPECT_EQ(arena_->alloc_pages(PageCount{k_block + 1}).error().code(), ENOMEM) << "no free range is larger";
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, k_block), PageCount{k_block}));
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_F(ArenaPromote, keeps_what_used_pages_hold) {
    for (const std::uint64_t page : {0UL, 100UL, k_block - 1, k_block + 7})
        std::memset(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, page)}).value(),
                    static_cast<int>(page % 250) + 1, k_page_size);
    byte_at(page_at(*arena_, 200)) = 77;
    ASSERT_TRUE(test::ok(promote(0, 2 * k_block)));
    EXPECT_EQ(usage(*arena_), "1024 0");
    EXPECT_EQ(on_2mib(*arena_), 2 * k_block);
    for (const std::uint64_t page : {0UL, 100UL, k_block - 1, k_block + 7}) {
        EXPECT_EQ(byte_at(page_at(*arena_, page) + 4095), page % 250 + 1) << page;
    }
    EXPECT_EQ(byte_at(page_at(*arena_, 200)), 77);
    EXPECT_TRUE(test::is_zero(page_at(*arena_, 1), 99 * k_page_size));
}

TEST_F(ArenaPromote, clears_pages_that_were_freed) {
    std::byte* const pages = static_cast<std::byte*>(arena_->alloc_pages(PageCount{100}).value());
    std::memset(pages, 0xee, 100 * k_page_size);
    ASSERT_TRUE(arena_->free_pages(pages, PageCount{100}));
    EXPECT_EQ(recycled(*arena_), 100U);
    ASSERT_TRUE(test::ok(promote(0, k_block)));
    EXPECT_TRUE(test::is_zero(arena_->data(), k_huge_page_size));
    EXPECT_EQ(usage(*arena_), "512 0");
    EXPECT_EQ(recycled(*arena_), 0U);
}

TEST_F(ArenaPromote, changes_nothing_where_a_page_is_reserved) {
    ASSERT_TRUE(arena_->reserve_pages(page_at(*arena_, k_block + 300), PageCount{1}));
    std::memset(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, 5)}).value(), 0x55, k_page_size);
    EXPECT_TRUE(refused(promote(0, 2 * k_block), EBUSY, "reserved"));
    EXPECT_EQ(usage(*arena_), "1 1");
    EXPECT_EQ(recycled(*arena_), 0U);
    EXPECT_EQ(byte_at(page_at(*arena_, 5)), 0x55);
    byte_at(page_at(*arena_, 6)) = 1;
    EXPECT_EQ(usage(*arena_), "2 1") << "a free page there is absent again";
    EXPECT_TRUE(test::ok(promote(0, k_block)));
}

TEST_F(ArenaPromote, changes_nothing_where_the_kernel_cannot) {
    std::byte* const pages = static_cast<std::byte*>(arena_->alloc_pages(PageCount{10}).value());
    std::memset(pages, 0xee, 10 * k_page_size);
    ASSERT_TRUE(arena_->free_pages(pages, PageCount{8}));
    {
        os::FailCall injector{os::Call::madvise, EBUSY, 0, os::FailCall::Repeat::always};
        const os::ScopedFaultInjector scope{injector};
        EXPECT_TRUE(refused(promote(0, k_block), EBUSY, "2 MiB"));
    }
    EXPECT_EQ(usage(*arena_), "2 0");
    EXPECT_EQ(recycled(*arena_), 8U);
    EXPECT_EQ(byte_at(page_at(*arena_, 9)), 0xee);
    EXPECT_EQ(byte_at(page_at(*arena_, 10)), 0);
    EXPECT_EQ(usage(*arena_), "3 0") << "a free page there is absent again";
    const auto again = arena_->alloc_pages(PageCount{8}, {.address = pages});
    ASSERT_TRUE(test::ok(again));
    EXPECT_TRUE(test::is_zero(pages, 8 * k_page_size));
}

TEST_F(ArenaPromote, changes_nothing_where_memory_is_out) {
    // Two runs of free pages: the first one has got its memory by then.
    ASSERT_TRUE(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, 100)}));
    {
        os::FailCall injector{os::Call::uffd_zeropage, ENOMEM, 1, os::FailCall::Repeat::always};
        const os::ScopedFaultInjector scope{injector};
        EXPECT_TRUE(refused(promote(0, k_block), ENOMEM, "memory"));
    }
    EXPECT_EQ(usage(*arena_), "1 0");
    byte_at(page_at(*arena_, 50)) = 1;
    EXPECT_EQ(usage(*arena_), "2 0") << "a free page there is absent again";
}

TEST_F(ArenaPromote, is_for_whole_blocks_of_the_arena) {
    EXPECT_TRUE(refused(promote(0, 0), EINVAL, "0 pages"));
    EXPECT_TRUE(refused(promote(0, 1), EINVAL, "whole blocks"));
    EXPECT_TRUE(refused(promote(1, k_block), EINVAL, "whole blocks"));
    EXPECT_TRUE(refused(promote(0, k_block + 1), EINVAL, "whole blocks"));
    EXPECT_TRUE(refused(arena_->promote(arena_->data() + 1, PageCount{k_block}), EINVAL, ""));
    EXPECT_TRUE(refused(promote(2 * k_block, 2 * k_block), ERANGE, ""));
    EXPECT_TRUE(refused(promote(3 * k_block, k_block), ERANGE, ""));
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_F(ArenaPromote, charges_the_account_for_what_was_free) {
    const auto account = std::make_shared<PageAccount>("promoting", PageCount{600});
    arena_ = arena_of_blocks(2, {.huge_pages = HugePages::never, .account = account});
    ASSERT_NE(arena_, nullptr);
    ASSERT_TRUE(arena_->alloc_pages(PageCount{12}));
    ASSERT_TRUE(test::ok(promote(0, k_block)));
    EXPECT_EQ(account->used(), PageCount{512});
    EXPECT_TRUE(refused(promote(k_block, k_block), ENOMEM, "'promoting'"));
    EXPECT_EQ(account->used(), PageCount{512});
    EXPECT_EQ(usage(*arena_), "512 0");
    arena_.reset();
    EXPECT_EQ(account->used(), PageCount{0});
}

TEST_F(ArenaPromote, works_in_an_arena_that_others_have) {
    const auto shared = test::shared_descriptor(*arena_);
    byte_at(arena_->alloc_pages(PageCount{1}).value()) = 9;
    test::Peer peer{[&](test::Peer&) {
        const auto mine = test::attach_instead(arena_, shared.get());
        ASSERT_NE(mine, nullptr);
        ASSERT_TRUE(test::ok(mine->promote(mine->data(), PageCount{k_block})));
        EXPECT_EQ(on_2mib(*mine), k_block);
        EXPECT_EQ(byte_at(mine->data()), 9);
        byte_at(page_at(*mine, 511)) = 8;
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(usage(*arena_), "512 0");
    EXPECT_EQ(byte_at(page_at(*arena_, 511)), 8);
}

// --- by themselves

class ArenaHugeAutomatic : public ArenaPromote {
protected:
    void SetUp() override {
        ArenaPromote::SetUp();
        arena_ = arena_of_blocks(4, {.recycle = PageCount{0}, .huge_pages = HugePages::automatic});
    }
};

TEST_F(ArenaHugeAutomatic, whole_free_blocks_of_an_allocation_are_on_one_entry_each) {
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{2 * k_block + 10}, {.address = page_at(*arena_, 5)})));
    EXPECT_EQ(on_2mib(*arena_), k_block) << "the block between two parts";
    EXPECT_EQ(usage(*arena_), "1034 0");
    EXPECT_TRUE(test::is_zero(page_at(*arena_, 5), (2 * k_block + 10) * k_page_size));
    EXPECT_EQ(test::host_faults(*arena_), 0U);
}

TEST_F(ArenaHugeAutomatic, pages_around_and_after_are_watched_as_before) {
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{k_block}, {.address = page_at(*arena_, k_block)})));
    EXPECT_EQ(on_2mib(*arena_), k_block);
    byte_at(page_at(*arena_, k_block - 1)) = 1;
    byte_at(page_at(*arena_, 2 * k_block)) = 1;
    byte_at(page_at(*arena_, 2 * k_block + 1)) = 1;
    EXPECT_EQ(usage(*arena_), "515 0");
    EXPECT_EQ(test::host_faults(*arena_), 3U);
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, k_block), PageCount{k_block}));
    EXPECT_EQ(byte_at(page_at(*arena_, k_block + 9)), 0);
    EXPECT_EQ(usage(*arena_), "4 0") << "a touch within the block that is no more";
}

TEST_F(ArenaHugeAutomatic, single_pages_freed_out_of_a_block_are_absent) {
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{k_block})));
    std::memset(arena_->data(), 0xee, k_huge_page_size);
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, 7), PageCount{1}));
    EXPECT_EQ(usage(*arena_), "511 0");
    EXPECT_EQ(byte_at(page_at(*arena_, 7)), 0);
    EXPECT_EQ(byte_at(page_at(*arena_, 8)), 0xee);
    EXPECT_EQ(usage(*arena_), "512 0");
}

TEST_F(ArenaHugeAutomatic, none_are_made_in_the_last_block_of_an_odd_arena) {
    arena_ = make_tuned_arena({.pages = PageCount{k_block + 100}});
    ASSERT_NE(arena_, nullptr);
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{k_block + 100})));
    EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
    EXPECT_EQ(on_2mib(*arena_), k_block);
}

// A touch of the page behind blocks that are being made, which is not watched for that time, is not lost.
__attribute__((no_sanitize("thread"), noinline)) void write_byte(std::byte* at, unsigned value) {
    byte_at(at) = static_cast<unsigned char>(value);
}

TEST_F(ArenaHugeAutomatic, a_touch_of_the_page_behind_while_blocks_are_made_keeps_its_data_and_counts) {
    std::byte* const behind = page_at(*arena_, k_block);
    std::atomic<unsigned> turn{0};
    std::atomic<unsigned> touched{0};
    constexpr unsigned k_turns = test::k_sanitized ? 20 : 200;
    std::thread toucher{[&] {
        for (unsigned mine = 1; mine <= k_turns; ++mine) {
            while (turn.load() != mine) std::this_thread::yield();
            for (unsigned spin = 0; spin < mine * 37 % 5'000; ++spin)
                std::atomic_signal_fence(std::memory_order_seq_cst);
            write_byte(behind, mine);
            touched.store(mine);
        }
    }};
    for (unsigned now = 1; now <= k_turns; ++now) {
        turn.store(now);
        EXPECT_TRUE(test::ok(arena_->alloc_pages(PageCount{k_block}, {.address = arena_->data()})));
        while (touched.load() != now) std::this_thread::yield();
        EXPECT_EQ(usage(*arena_), "513 0") << now;
        EXPECT_EQ(byte_at(behind), static_cast<unsigned char>(now));
        EXPECT_TRUE(test::is_zero(arena_->data(), k_huge_page_size));
        arena_->kfunc_free_pages(test::number(arena_->data()), k_block + 1);
        EXPECT_EQ(usage(*arena_), "0 0") << now;
    }
    toucher.join();
}

// --- the whole arena

class ArenaHugeAll : public ArenaPromote {
protected:
    void SetUp() override {
        ArenaPromote::SetUp();
        arena_ = arena_of_blocks(4, {.recycle = PageCount{0}, .huge_pages = HugePages::all});
    }
};

TEST_F(ArenaHugeAll, memory_comes_in_whole_blocks_and_is_allocated_within_them) {
    std::byte* const first = static_cast<std::byte*>(arena_->alloc_pages(PageCount{1}).value());
    EXPECT_EQ(usage(*arena_), "1 0");
    EXPECT_EQ(recycled(*arena_), k_block - 1);
    EXPECT_EQ(on_2mib(*arena_), k_block);
    std::memset(arena_->alloc_pages(PageCount{k_block - 1}, {.address = first + k_page_size}).value(), 0xee,
                (k_block - 1) * k_page_size);
    EXPECT_EQ(usage(*arena_), "512 0");
    EXPECT_EQ(recycled(*arena_), 0U);
    EXPECT_EQ(on_2mib(*arena_), k_block);
}

TEST_F(ArenaHugeAll, a_block_that_is_wholly_free_gives_its_memory_back) {
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{3}, {.address = page_at(*arena_, k_block + 5)})));
    std::memset(page_at(*arena_, k_block + 5), 0xee, 3 * k_page_size);
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, k_block + 5), PageCount{1}));
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, k_block + 7), PageCount{1}));
    EXPECT_EQ(recycled(*arena_), k_block - 1);
    EXPECT_EQ(byte_at(page_at(*arena_, k_block + 6)), 0xee);
    ASSERT_TRUE(arena_->free_pages(page_at(*arena_, k_block + 6), PageCount{1}));
    EXPECT_EQ(recycled(*arena_), 0U);
    EXPECT_EQ(on_2mib(*arena_), 0U);
    ASSERT_TRUE(test::ok(arena_->alloc_pages(arena_->pages())));
    EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
    EXPECT_EQ(on_2mib(*arena_), 4 * k_block);
}

TEST_F(ArenaHugeAll, a_touch_makes_a_whole_block_used) {
    byte_at(page_at(*arena_, 2 * k_block + 100)) = 1;
    EXPECT_EQ(usage(*arena_), "512 0");
    EXPECT_EQ(test::host_faults(*arena_), 1U);
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, 2 * k_block)}), EBUSY, ""));
    EXPECT_EQ(arena_->alloc_pages(PageCount{2 * k_block}).value(), arena_->data());
}

TEST_F(ArenaHugeAll, a_smaller_bound_gives_free_blocks_back) {
    ASSERT_TRUE(arena_->set_recycle(PageCount{4 * k_block}));
    ASSERT_TRUE(arena_->alloc_pages(arena_->pages()));
    ASSERT_TRUE(arena_->free_pages(arena_->data(), arena_->pages()));
    const std::uint64_t kept = recycled(*arena_);
    EXPECT_GT(kept, 0U);
    ASSERT_TRUE(arena_->set_recycle(PageCount{0}));
    EXPECT_EQ(recycled(*arena_), 0U);
    EXPECT_TRUE(arena_->alloc_pages(arena_->pages()));
}

TEST(ArenaHuge, the_whole_arena_is_whole_blocks) {
    EXPECT_TRUE(
        refused(ProcessArena::create({.pages = PageCount{k_block + 1}, .tuning = {.huge_pages = HugePages::all}}),
                EINVAL, "2 MiB"));
    EXPECT_TRUE(refused(ProcessArena::create({.pages = PageCount{k_block},
                                              .user_vm_start = UserAddress{test::k_free_address + k_page_size},
                                              .tuning = {.huge_pages = HugePages::all}}),
                        EINVAL, "2 MiB"));
}

}  // namespace
}  // namespace harena
