// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_pool.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "harena/page/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

using test::is_zero;
using test::make_pool;
using test::refused;
using test::scribble;

TEST(PagePool, capacity_is_rounded_up_to_pageblocks_and_grows_when_it_is_used) {
    const auto pool = make_pool(PageCount{513});
    EXPECT_EQ(pool->capacity(), PageCount{1024});
    EXPECT_EQ(pool->statistics().grown, PageCount{0});
    Page* const page = pool->alloc_pages(Order{}).value();
    EXPECT_EQ(pool->statistics().grown, PageCount{512});
    EXPECT_EQ(pool->statistics().allocated, PageCount{1});
    EXPECT_TRUE(pool->free_pages(page, Order{}));
    EXPECT_EQ(pool->statistics().allocated, PageCount{0});
}

TEST(PagePool, pools_that_cannot_be_are_refused) {
    EXPECT_TRUE(refused(PagePool::create({.capacity = PageCount{0}}), EINVAL, "0 pages"));
    EXPECT_TRUE(refused(PagePool::create({.capacity = PageCount{k_max_pages + 1}}), EINVAL, "it takes up to"));
    EXPECT_TRUE(refused(PagePool::create({.capacity = PageCount{512}, .nodes = 0}), EINVAL, "0 nodes"));
    EXPECT_TRUE(refused(PagePool::create({.capacity = PageCount{512}, .nodes = 65}), EINVAL, "65 nodes"));
}

TEST(PagePool, blocks_are_aligned_zeroed_and_writable_in_every_order) {
    const auto pool = make_pool(PageCount{4096});
    for (int round = 0; round < 2; ++round)  // the second round has pages that were written to
        for (std::uint8_t k = 0; k <= k_max_order.value(); ++k) {
            Page* const page = pool->alloc_pages(Order{k}).value();
            EXPECT_EQ(pool->pfn(page).value() % pages_of(Order{k}), 0U);
            EXPECT_EQ(page->order(), Order{k});
            std::byte* const at = pool->page_address(page);
            EXPECT_TRUE(is_zero(at, bytes_of(Order{k}))) << unsigned{k};
            scribble(at, bytes_of(Order{k}));
            EXPECT_TRUE(pool->free_pages(page, Order{k}));
        }
    EXPECT_TRUE(refused(pool->alloc_pages(Order{11}), EINVAL, "the largest is 10"));
}

TEST(PagePool, no_zero_hands_out_what_was_there) {
    const auto pool = make_pool(PageCount{512});
    Page* const first = pool->alloc_pages(Order{3}).value();
    scribble(pool->page_address(first), bytes_of(Order{3}));
    ASSERT_TRUE(pool->free_pages(first, Order{3}));
    Page* const again = pool->alloc_pages(Order{3}, {.no_zero = true}).value();
    EXPECT_EQ(again, first);
    EXPECT_FALSE(is_zero(pool->page_address(again), bytes_of(Order{3})));
    EXPECT_TRUE(pool->free_pages(again, Order{3}));
}

TEST(PagePool, descriptors_addresses_and_numbers_lead_to_one_another) {
    const auto pool = make_pool(PageCount{1024});
    Page* const page = pool->alloc_pages(Order{2}).value();
    const Pfn pfn = pool->pfn(page);
    EXPECT_EQ(pool->page(pfn), page);
    EXPECT_EQ(pool->page_at(pool->page_address(page)), page);
    EXPECT_EQ(pool->page_at(pool->page_address(page) + k_page_size + 7), pool->page(pfn + 1));
    EXPECT_EQ(pool->page_at(pool->page_address(pool->page(Pfn{0})) - 1), nullptr);
    EXPECT_EQ(pool->page_at(pool->page_address(pool->page(Pfn{0})) + 1024 * k_page_size), nullptr);
    EXPECT_TRUE(pool->free_pages(page, Order{2}));
}

TEST(PagePool, the_direct_map_is_the_file) {
    const auto pool = make_pool(PageCount{512});
    Page* const page = pool->alloc_pages(Order{}).value();
    std::memcpy(pool->page_address(page) + 100, "here", 5);
    std::array<char, 5> read{};
    ASSERT_EQ(::pread(pool->fd(), read.data(), read.size(), static_cast<off_t>(byte_offset(pool->pfn(page)) + 100)), 5);
    EXPECT_STREQ(read.data(), "here");
    EXPECT_TRUE(pool->free_pages(page, Order{}));
}

TEST(PagePool, all_of_it_can_be_allocated_and_then_there_is_no_more) {
    const auto pool = make_pool(PageCount{1024});
    std::vector<Page*> pages;
    for (int i = 0; i < 1024; ++i) pages.push_back(pool->alloc_pages(Order{}).value());
    EXPECT_TRUE(refused(pool->alloc_pages(Order{}), ENOMEM, "capacity of 1024 pages"));
    std::vector<std::uint32_t> numbers;
    for (Page* const page : pages) numbers.push_back(pool->pfn(page).value());
    std::ranges::sort(numbers);
    EXPECT_TRUE(std::ranges::adjacent_find(numbers) == numbers.end());
    for (Page* const page : pages) ASSERT_TRUE(pool->free_pages(page, Order{}));
    // What is in this thread's cache comes back when a large block needs it.
    Page* const all = pool->alloc_pages(k_max_order).value();
    EXPECT_TRUE(pool->free_pages(all, k_max_order));
}

TEST(PagePool, pages_in_the_caches_of_other_threads_are_found) {
    const auto pool = make_pool(PageCount{512});
    test::OtherThread other;
    other.run([&] {
        std::vector<Page*> pages;
        for (int i = 0; i < 100; ++i) pages.push_back(pool->alloc_pages(Order{}).value());
        for (Page* const page : pages) (void)pool->free_pages(page, Order{});
    });
    EXPECT_GT(pool->statistics().cached, PageCount{0});
    Page* const all = pool->alloc_pages(k_pageblock_order).value();
    EXPECT_EQ(pool->statistics().cached, PageCount{0});
    EXPECT_TRUE(pool->free_pages(all, k_pageblock_order));
}

TEST(PagePool, bulk_allocation_is_all_or_nothing) {
    const auto pool = make_pool(PageCount{1024});
    std::vector<Page*> pages(1000);
    ASSERT_TRUE(pool->alloc_bulk(pages));
    EXPECT_EQ(pool->statistics().allocated, PageCount{1000});
    for (Page* const page : pages) {
        ASSERT_TRUE(is_zero(pool->page_address(page), k_page_size));
        scribble(pool->page_address(page), k_page_size);
    }
    std::vector<Page*> more(25);
    PageAccount account{"bulk"};
    EXPECT_TRUE(refused(pool->alloc_bulk(more, {.account = &account}), ENOMEM, "capacity"));
    EXPECT_EQ(account.used(), PageCount{0});
    EXPECT_EQ(pool->statistics().allocated, PageCount{1000});
    ASSERT_TRUE(pool->alloc_bulk(std::span{more}.first(24), {.account = &account}));
    EXPECT_EQ(account.used(), PageCount{24});
    ASSERT_TRUE(pool->free_bulk(std::span{more}.first(24)));
    EXPECT_EQ(account.used(), PageCount{0});
    ASSERT_TRUE(pool->free_bulk(pages));
    ASSERT_TRUE(pool->alloc_bulk(pages));
    for (Page* const page : pages) ASSERT_TRUE(is_zero(pool->page_address(page), k_page_size));
    ASSERT_TRUE(pool->free_bulk(pages));
    ASSERT_TRUE(pool->alloc_bulk({}));
}

TEST(PagePool, a_bad_page_in_a_bulk_free_does_not_keep_the_others) {
    if (k_debug_checks) GTEST_SKIP() << "debug builds abort";
    const auto pool = make_pool(PageCount{512});
    std::array<Page*, 3> pages{};
    ASSERT_TRUE(pool->alloc_bulk(pages));
    const std::array<Page*, 4> bad{pages[0], pages[1], pages[1], pages[2]};
    EXPECT_TRUE(refused(pool->free_bulk(bad), EINVAL, "double free"));
    EXPECT_EQ(pool->statistics().allocated, PageCount{0});
}

TEST(PagePool, accounts_are_charged_and_refuse) {
    const auto pool = make_pool(PageCount{1024});
    PageAccount account{"tenant", PageCount{9}};
    const AllocFlags flags{.account = &account};
    Page* const block = pool->alloc_pages(Order{3}, flags).value();
    EXPECT_EQ(block->account(), &account);
    Page* const page = pool->alloc_pages(Order{}, flags).value();
    EXPECT_TRUE(refused(pool->alloc_pages(Order{}, flags), ENOMEM, "account 'tenant' is at its limit"));
    EXPECT_TRUE(refused(pool->unmapped().unmapped_pages_alloc(Order{}, flags), ENOMEM, "tenant"));
    EXPECT_TRUE(pool->free_pages(block, Order{3}));
    EXPECT_EQ(account.used(), PageCount{1});
    Page* const unmapped = pool->unmapped().unmapped_pages_alloc(Order{2}, flags).value();
    EXPECT_EQ(account.used(), PageCount{5});
    EXPECT_TRUE(pool->unmapped().unmapped_pages_free(unmapped));
    EXPECT_TRUE(pool->free_pages(page, Order{}));
    EXPECT_EQ(account.used(), PageCount{0});
    // What cannot be had is not charged.
    account.set_limit(PageAccount::k_no_limit);
    std::vector<Page*> all(1024);
    ASSERT_TRUE(pool->alloc_bulk(all));
    EXPECT_FALSE(pool->alloc_pages(Order{}, flags));
    EXPECT_FALSE(pool->alloc_pages(Order{4}, flags));
    EXPECT_FALSE(pool->unmapped().unmapped_pages_alloc(Order{}, flags));
    EXPECT_EQ(account.used(), PageCount{0});
    ASSERT_TRUE(pool->free_bulk(all));
}

TEST(PagePool, the_last_reference_frees) {
    const auto pool = make_pool(PageCount{512});
    Page* const page = pool->alloc_pages(Order{1}).value();
    ASSERT_TRUE(pool->get_page(page));
    EXPECT_EQ(page->load().references, 2U);
    ASSERT_TRUE(pool->put_page(page));
    EXPECT_EQ(pool->statistics().allocated, PageCount{2});
    ASSERT_TRUE(pool->put_page(page));
    EXPECT_EQ(pool->statistics().allocated, PageCount{0});
    EXPECT_TRUE(refused(pool->get_page(page), EINVAL, "not allocated"));
}

TEST(PagePool, references_of_many_threads_are_counted) {
    const auto pool = make_pool(PageCount{512});
    Page* const page = pool->alloc_pages(Order{}).value();
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < 4; ++i)
            threads.emplace_back([&] {
                for (int round = 0; round < 5000; ++round) {
                    (void)pool->get_page(page);
                    (void)pool->put_page(page);
                }
            });
    }
    EXPECT_EQ(page->load().references, 1U);
    EXPECT_TRUE(pool->put_page(page));
    EXPECT_EQ(pool->statistics().allocated, PageCount{0});
}

TEST(PagePool, misuse_is_an_error_and_changes_nothing) {
    if (k_debug_checks) GTEST_SKIP() << "debug builds abort: see PageLedger";
    const auto pool = make_pool(PageCount{512});
    const auto other = make_pool(PageCount{512});
    Page* const page = pool->alloc_pages(Order{2}).value();
    EXPECT_TRUE(refused(pool->free_pages(page, Order{1}), EINVAL, "allocated with order 2"));
    EXPECT_TRUE(refused(pool->free_pages(pool->page(pool->pfn(page) + 1), Order{}), EINVAL, "no allocated block"));
    EXPECT_TRUE(refused(other->free_pages(page, Order{2}), EINVAL, "not a page of this pool"));
    EXPECT_TRUE(refused(pool->free_pages(nullptr, Order{}), EINVAL, "not a page of this pool"));
    EXPECT_TRUE(refused(pool->unmapped().unmapped_pages_free(page), EINVAL, "in the direct map"));
    ASSERT_TRUE(pool->get_page(page));
    EXPECT_TRUE(refused(pool->free_pages(page, Order{2}), EBUSY, "2 references"));
    ASSERT_TRUE(pool->put_page(page));
    EXPECT_EQ(pool->statistics().allocated, PageCount{4});
    EXPECT_TRUE(pool->free_pages(page, Order{2}));
    EXPECT_TRUE(refused(pool->free_pages(page, Order{2}), EINVAL, "double free"));
    EXPECT_TRUE(refused(pool->put_page(page), EINVAL, "double free"));
    EXPECT_EQ(pool->statistics().allocated, PageCount{0});
}

TEST(PagePool, free_pageblocks_are_given_back_to_the_system) {
    const auto pool = make_pool(PageCount{8 * 512});
    std::vector<Page*> blocks;
    for (int i = 0; i < 8; ++i) blocks.push_back(pool->alloc_pages(k_pageblock_order).value());
    for (Page* const block : blocks) scribble(pool->page_address(block), bytes_of(k_pageblock_order));
    const std::uint64_t full = test::bytes_in_use(pool->fd());
    EXPECT_GE(full, 8 * k_huge_page_size);
    EXPECT_EQ(pool->trim(PageCount{4096}).value(), PageCount{0});
    for (Page* const block : blocks) ASSERT_TRUE(pool->free_pages(block, k_pageblock_order));
    EXPECT_EQ(pool->trim(PageCount{513}).value(), PageCount{1024});
    EXPECT_EQ(pool->statistics().grown, PageCount{6 * 512});
    EXPECT_LE(test::bytes_in_use(pool->fd()), full - 2 * k_huge_page_size);
    EXPECT_EQ(pool->trim(PageCount{1'000'000}).value(), PageCount{6 * 512});
    EXPECT_EQ(test::bytes_in_use(pool->fd()), 0U);
    // And it grows again, with zeros.
    Page* const again = pool->alloc_pages(k_max_order).value();
    EXPECT_TRUE(is_zero(pool->page_address(again), bytes_of(k_max_order)));
    EXPECT_TRUE(pool->free_pages(again, k_max_order));
}

TEST(PagePool, trim_takes_from_the_unmapped_cache_too) {
    const auto pool = make_pool(PageCount{4 * 512});
    Page* const page = pool->unmapped().unmapped_pages_alloc(Order{}).value();
    ASSERT_TRUE(pool->unmapped().unmapped_pages_free(page));
    EXPECT_EQ(pool->statistics().unmapped_free, PageCount{512});
    EXPECT_EQ(pool->trim(PageCount{4 * 512}).value(), PageCount{512});
    EXPECT_EQ(pool->statistics().grown, PageCount{0});
}

TEST(PagePool, what_the_unmapped_cache_has_free_is_had_before_memory_is_short) {
    const auto pool = make_pool(PageCount{2 * 512});
    std::array<Page*, 2> unmapped{};
    for (Page*& page : unmapped) page = pool->unmapped().unmapped_pages_alloc(k_pageblock_order).value();
    EXPECT_FALSE(pool->alloc_pages(Order{}));
    ASSERT_TRUE(pool->unmapped().unmapped_pages_free(unmapped[0]));
    Page* const page = pool->alloc_pages(Order{}).value();
    EXPECT_TRUE(is_zero(pool->page_address(page), k_page_size));
    EXPECT_EQ(pool->statistics().free.value() + pool->statistics().cached.value(), 511U);
    EXPECT_TRUE(pool->free_pages(page, Order{}));
    EXPECT_TRUE(pool->unmapped().unmapped_pages_free(unmapped[1]));
}

TEST(PagePool, a_large_block_that_cannot_be_had_leaves_most_of_the_unmapped_cache_alone) {
    const auto pool = make_pool(PageCount{64 * 512});
    // The even pageblocks are in use, the odd ones in the unmapped cache: no two buddies can be had.
    std::vector<Page*> blocks;
    for (int i = 0; i < 64; ++i) blocks.push_back(pool->alloc_pages(k_pageblock_order).value());
    std::ranges::sort(blocks, {}, [&](const Page* page) { return pool->pfn(page); });
    for (std::size_t i = 1; i < blocks.size(); i += 2) ASSERT_TRUE(pool->free_pages(blocks[i], k_pageblock_order));
    std::vector<Page*> unmapped;
    for (int i = 0; i < 32; ++i) unmapped.push_back(pool->unmapped().unmapped_pages_alloc(k_pageblock_order).value());
    for (Page* const page : unmapped) ASSERT_TRUE(pool->unmapped().unmapped_pages_free(page));
    EXPECT_TRUE(refused(pool->alloc_pages(k_max_order), ENOMEM, "no free block of 1024 pages"));
    EXPECT_GE(pool->unmapped().count().value(), 24U * 512);
    for (std::size_t i = 0; i < blocks.size(); i += 2) ASSERT_TRUE(pool->free_pages(blocks[i], k_pageblock_order));
}

TEST(PagePool, threads_that_want_no_more_than_there_is_are_served) {
    const auto pool = make_pool(PageCount{512});
    std::vector<Page*> most(512 - 32);
    ASSERT_TRUE(pool->alloc_bulk(most));
    std::atomic<int> failures{0};
    {
        std::vector<std::jthread> threads;
        for (int t = 0; t < 4; ++t)
            threads.emplace_back([&] {
                for (int round = 0; round < 2000; ++round) {
                    std::array<Page*, 4> pages{};
                    for (Page*& page : pages) {
                        const auto got = pool->alloc_pages(Order{}, {.no_zero = true});
                        if (!got) ++failures;
                        page = got ? *got : nullptr;
                    }
                    for (Page* const page : pages)
                        if (page != nullptr) (void)pool->free_pages(page, Order{});
                }
            });
    }
    EXPECT_EQ(failures.load(), 0);
    ASSERT_TRUE(pool->free_bulk(most));
}

TEST(PagePool, nodes_have_free_lists_of_their_own) {
    // Of a machine with one node, all threads are on the first.
    const auto created = PagePool::create({.capacity = PageCount{4 * 512}, .nodes = 3});
    ASSERT_TRUE(created);
    PagePool& pool = **created;
    Page* const here = pool.alloc_pages(Order{4}, {.this_node = true}).value();
    std::vector<Page*> all;
    while (auto page = pool.alloc_pages(Order{4})) all.push_back(*page);
    EXPECT_EQ(all.size(), 4U * 512 / 16 - 1);
    EXPECT_TRUE(refused(pool.alloc_pages(Order{}, {.this_node = true}), ENOMEM, "capacity"));
    for (Page* const page : all) ASSERT_TRUE(pool.free_pages(page, Order{4}));
    Page* const single = pool.alloc_pages(Order{}, {.this_node = true}).value();
    EXPECT_TRUE(pool.free_pages(single, Order{}));
    EXPECT_TRUE(pool.free_pages(here, Order{4}));
}

TEST(PagePool, a_child_after_fork_cannot_use_it) {
    const auto pool = make_pool(PageCount{1024});
    Page* const page = pool->alloc_pages(Order{}).value();
    Page* const unmapped = pool->unmapped().unmapped_pages_alloc(Order{}).value();
    const pid_t child = ::fork();
    if (child == 0) {
        const bool right =
            refused(pool->alloc_pages(Order{}), EOWNERDEAD, "the page pool") &&
            refused(pool->free_pages(page, Order{}), EOWNERDEAD, "the page pool") &&
            refused(pool->get_page(page), EOWNERDEAD, "") && refused(pool->put_page(page), EOWNERDEAD, "") &&
            refused(pool->trim(PageCount{1}), EOWNERDEAD, "") && refused(pool->alloc_bulk({}), EOWNERDEAD, "") &&
            refused(pool->unmapped().unmapped_pages_alloc(Order{}), EOWNERDEAD, "") &&
            refused(pool->unmapped().unmapped_pages_free(unmapped), EOWNERDEAD, "") &&
            pool->statistics().allocated == PageCount{} && pool->count() == PageCount{} &&
            pool->unmapped().statistics().allocated == PageCount{} && !test::readable(pool->page_address(page));
        // A pool of its own works.
        const auto own = PagePool::create({.capacity = PageCount{512}});
        const auto one = own ? (*own)->alloc_pages(Order{}) : fail(ENOMEM, "no pool");
        const bool works = one && (*own)->free_pages(*one, Order{});
        ::_exit(right && works ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(pool->free_pages(page, Order{}));
    EXPECT_TRUE(pool->free_pages(unmapped, Order{}));
}

TEST(PagePool, ends_only_when_all_pages_are_back) {
    if (!k_debug_checks) GTEST_SKIP() << "checked in debug builds";
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            const auto pool = make_pool(PageCount{512});
            (void)pool->alloc_pages(Order{});
        },
        "a pool ends while pages of it are allocated");
}

}  // namespace
}  // namespace harena
