// SPDX-License-Identifier: Apache-2.0
#include "harena/page/unmapped_cache.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "harena/base/os/fault_injection.hpp"
#include "harena/page/test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::is_zero;
using test::make_pool;
using test::readable;
using test::refused;

class Unmapped : public testing::Test {
protected:
    static constexpr std::uint32_t k_blocks = 8;

    Page* take(Order order = Order{}, const AllocFlags& flags = {}) {
        auto page = cache().unmapped_pages_alloc(order, flags);
        EXPECT_TRUE(page) << page.error().message();
        return page ? *page : nullptr;
    }
    void free(Page* page) {
        const auto freed = cache().unmapped_pages_free(page);
        EXPECT_TRUE(freed) << freed.error().message();
    }
    UnmappedCache& cache() { return pool_->unmapped(); }
    UnmappedStatistics statistics() { return cache().statistics(); }
    /// The bytes of a block, read through the file.
    std::vector<std::byte> bytes(const Page* page, Order order = Order{}) const {
        std::vector<std::byte> read(bytes_of(order));
        EXPECT_EQ(::pread(pool_->fd(), read.data(), read.size(), static_cast<off_t>(byte_offset(pool_->pfn(page)))),
                  static_cast<ssize_t>(read.size()));
        return read;
    }
    bool is_zero(const Page* page, Order order = Order{}) const {
        return std::ranges::all_of(bytes(page, order), [](std::byte b) { return b == std::byte{0}; });
    }
    void write(const Page* page, Order order = Order{}) const {
        const std::vector<std::byte> pattern(bytes_of(order), std::byte{0xee});
        EXPECT_EQ(::pwrite(pool_->fd(), pattern.data(), pattern.size(),
                           static_cast<off_t>(byte_offset(pool_->pfn(page)))),
                  static_cast<ssize_t>(pattern.size()));
    }
    std::byte* address(const Page* page) const { return pool_->page_address(page); }

    std::unique_ptr<PagePool> pool_ = make_pool(PageCount{k_blocks * k_pageblock_pages});
};

TEST_F(Unmapped, a_page_has_no_address_and_a_whole_pageblock_left_for_it) {
    Page* const page = take();
    EXPECT_TRUE(page->unmapped());
    for (std::uint32_t i = 0; i < k_pageblock_pages; ++i)
        ASSERT_FALSE(readable(address(pool_->page(pageblock_begin(pool_->pfn(page)) + i)))) << i;
    EXPECT_EQ(statistics().cached[9], 1U);
    EXPECT_EQ(statistics().free, PageCount{511});
    EXPECT_EQ(statistics().allocated, PageCount{1});
    EXPECT_EQ(pool_->unmapped_in_pageblock(pool_->pfn(page)), 512U);
    free(page);
    EXPECT_FALSE(readable(address(page)));
    EXPECT_EQ(statistics().free, PageCount{512});
}

TEST_F(Unmapped, its_addresses_cannot_be_taken_by_another_mapping) {
    Page* const page = take();
    constexpr int k_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    EXPECT_EQ(::mmap(address(page), k_page_size, PROT_READ, k_flags, -1, 0), MAP_FAILED);
    EXPECT_EQ(errno, EEXIST);
    free(page);
}

TEST_F(Unmapped, what_is_handed_out_is_zero_whoever_had_it_before) {
    // By an ordinary owner, through the direct map, and by owners of unmapped pages, through the file.
    Page* const mapped = pool_->alloc_pages(k_pageblock_order).value();
    test::scribble(address(mapped), bytes_of(k_pageblock_order));
    ASSERT_TRUE(pool_->free_pages(mapped, k_pageblock_order));
    for (int round = 0; round < 3; ++round) {
        std::vector<std::pair<Page*, Order>> blocks;
        for (std::uint8_t k = 0; k <= k_max_order.value(); ++k) blocks.emplace_back(take(Order{k}), Order{k});
        for (const auto& [page, order] : blocks) EXPECT_TRUE(is_zero(page, order)) << unsigned{order.value()};
        for (const auto& [page, order] : blocks) write(page, order);
        for (const auto& [page, order] : blocks) free(page);
    }
}

TEST_F(Unmapped, no_zero_hands_out_pages_that_were_not_zeroed_first) {
    Page* const page = take(Order{2});
    write(page, Order{2});
    free(page);
    EXPECT_EQ(statistics().dirty, PageCount{4});
    Page* const again = take(Order{2}, {.no_zero = true});
    EXPECT_EQ(again, page);
    EXPECT_FALSE(is_zero(again, Order{2}));
    free(again);
}

TEST_F(Unmapped, what_is_given_back_to_the_direct_map_is_zero) {
    Page* const page = take(k_pageblock_order, {.no_zero = true});
    write(page, k_pageblock_order);
    free(page);
    ASSERT_EQ(cache().shrink(PageCount{512}).value(), PageCount{512});
    ASSERT_TRUE(readable(address(page)));
    EXPECT_TRUE(test::is_zero(address(page), bytes_of(k_pageblock_order)));
}

TEST_F(Unmapped, flush_zeroes_all_that_is_free) {
    std::vector<Page*> pages;
    for (int i = 0; i < 40; ++i) pages.push_back(take());
    for (Page* const page : pages) write(page);
    for (std::size_t i = 0; i < pages.size(); i += 2) free(pages[i]);
    EXPECT_EQ(statistics().dirty, PageCount{20});
    ASSERT_TRUE(cache().flush());
    EXPECT_EQ(statistics().dirty, PageCount{0});
    for (std::size_t i = 0; i < pages.size(); ++i) EXPECT_EQ(is_zero(pages[i]), i % 2 == 0) << i;
    for (std::size_t i = 1; i < pages.size(); i += 2) free(pages[i]);
}

TEST_F(Unmapped, one_page_that_comes_and_goes_is_zeroed_alone_or_with_others_but_not_with_all) {
    free(take());
    os::FailCall writes{Call::pwrite, EIO, ~0ULL};  // counts
    const ScopedFaultInjector injected{writes};
    for (int i = 0; i < 511; ++i) free(take());
    EXPECT_LE(writes.seen(), 2U);
}

TEST_F(Unmapped, an_ordinary_free_returns_an_unmapped_page_to_the_cache) {
    Page* const page = take(Order{3});
    ASSERT_TRUE(pool_->free_pages(page, Order{3}));
    EXPECT_EQ(statistics().free, PageCount{512});
    EXPECT_FALSE(readable(address(page)));
    Page* const counted = take();
    ASSERT_TRUE(pool_->put_page(counted));
    EXPECT_EQ(statistics().allocated, PageCount{0});
}

TEST_F(Unmapped, adjoining_pageblocks_are_one_mapping) {
    // Of the pool, since an allocator's own come and go (the address sanitizer's).
    const std::size_t before = test::count_mappings("harena:pages");
    std::vector<Page*> pages;
    for (std::uint32_t i = 0; i < 4 * k_pageblock_pages; ++i) pages.push_back(take());
    EXPECT_LE(test::count_mappings("harena:pages"), before + 1);
    for (Page* const page : pages) free(page);
}

// Pageblocks of which only a part was free.
class UnmappedParts : public Unmapped {
protected:
    void SetUp() override {
        for (std::uint32_t i = 0; i < k_blocks * k_pageblock_pages; ++i)
            owned_.push_back(pool_->alloc_pages(Order{}).value());
        std::ranges::sort(owned_, {}, [this](const Page* page) { return pool_->pfn(page); });
    }
    void give(std::uint32_t pfn) { ASSERT_TRUE(pool_->free_pages(owned_[pfn], Order{})); }
    void drain() { (void)pool_->reclaim(PageCount{0}); }

    std::vector<Page*> owned_;
};

TEST_F(UnmappedParts, the_largest_free_block_leaves_if_there_is_no_pageblock) {
    for (std::uint32_t pfn = 512 + 64; pfn < 512 + 128; ++pfn) give(pfn);
    for (const std::uint32_t pfn : {7U, 900U}) give(pfn);
    drain();
    Page* const page = take();
    EXPECT_EQ(pool_->pfn(page).value() / 64, (512U + 64) / 64);
    EXPECT_EQ(statistics().cached[6], 1U);
    // Free pages of the same pageblock followed; those of others did not.
    EXPECT_FALSE(readable(address(owned_[900])));
    EXPECT_TRUE(readable(address(owned_[7])));
    EXPECT_EQ(pool_->unmapped_in_pageblock(Pfn{512}), 65U);
    EXPECT_TRUE(refused(cache().unmapped_pages_alloc(Order{7}), ENOMEM, "no free block"));
    free(page);
    for (Page* const one : owned_) {
        const std::uint32_t pfn = pool_->pfn(one).value();
        const bool given = pfn == 7 || pfn == 900 || pfn / 64 == (512U + 64) / 64;
        ASSERT_TRUE(given || pool_->free_pages(one, Order{}));
    }
}

TEST_F(UnmappedParts, pages_follow_the_rest_of_their_pageblock_when_they_are_freed) {
    for (std::uint32_t pfn = 0; pfn < 8; ++pfn) give(pfn);
    drain();
    Page* const page = take();
    ASSERT_LT(pool_->pfn(page).value(), 8U);
    EXPECT_EQ(pool_->direct_map_statistics().value().splits, 1U);
    for (std::uint32_t pfn = 8; pfn < 512; ++pfn) {
        give(pfn);
        ASSERT_FALSE(readable(address(owned_[pfn]))) << pfn;
    }
    EXPECT_EQ(pool_->unmapped_in_pageblock(Pfn{0}), 512U);
    free(page);
    // And back, in one piece.
    EXPECT_EQ(cache().shrink(PageCount{1}).value(), PageCount{512});
    EXPECT_EQ(statistics().released[9], 1U);
    EXPECT_EQ(pool_->unmapped_in_pageblock(Pfn{0}), 0U);
    EXPECT_TRUE(readable(address(owned_[100])));
    for (std::uint32_t pfn = 512; pfn < owned_.size(); ++pfn) give(pfn);
}

TEST_F(UnmappedParts, a_part_that_returns_makes_its_pageblock_whole) {
    for (std::uint32_t pfn = 0; pfn < 8; ++pfn) give(pfn);
    drain();
    free(take());
    EXPECT_EQ(cache().shrink(PageCount{8}).value(), PageCount{8});
    const auto map = pool_->direct_map_statistics().value();
    EXPECT_EQ(map.splits, 1U);
    EXPECT_EQ(map.merges, 1U);
    give(8);  // an ordinary free again
    EXPECT_EQ(statistics().free, PageCount{0});
    for (std::uint32_t pfn = 9; pfn < owned_.size(); ++pfn) give(pfn);
}

TEST_F(Unmapped, pages_that_returned_on_purpose_stay_when_they_are_freed) {
    std::vector<Page*> pages;
    for (std::uint32_t i = 0; i < k_pageblock_pages; ++i) pages.push_back(take());
    Page* const kept = pages[100];
    for (Page* const page : pages)
        if (page != kept) free(page);
    EXPECT_EQ(cache().shrink(pool_->capacity()).value(), PageCount{511});
    const PerOrder before = statistics().cached;
    for (int i = 0; i < 200; ++i) {
        Page* const page = pool_->alloc_pages(Order{3}).value();
        ASSERT_TRUE(pool_->free_pages(page, Order{3}));
    }
    EXPECT_EQ(statistics().cached, before);
    free(kept);
}

TEST_F(Unmapped, mappings_stay_within_their_budget_and_the_hosts_are_left) {
    auto pool = PagePool::create({.capacity = PageCount{4 * 512}, .collapse = false, .max_vmas = 21, .nodes = 1});
    ASSERT_TRUE(pool);
    std::vector<Page*> all(4 * 512);
    ASSERT_TRUE((*pool)->alloc_bulk(all));
    std::ranges::sort(all, {}, [&](const Page* page) { return (*pool)->pfn(page); });
    for (std::size_t i = 0; i < all.size(); i += 2) ASSERT_TRUE((*pool)->free_pages(all[i], Order{}));
    std::vector<Page*> unmapped;
    for (;;) {
        const auto page = (*pool)->unmapped().unmapped_pages_alloc(Order{});
        if (!page) {
            EXPECT_TRUE(refused(page, ENOMEM, "max_vmas"));
            break;
        }
        unmapped.push_back(*page);
    }
    EXPECT_EQ(unmapped.size(), 10U);  // each is a hole of its own: two edges
    EXPECT_LE((*pool)->direct_map_statistics().value().vmas, 21U);
    for (Page* const page : unmapped) ASSERT_TRUE((*pool)->unmapped().unmapped_pages_free(page));
    EXPECT_EQ((*pool)->unmapped().shrink(PageCount{512}).value(), PageCount{10});
    for (std::size_t i = 1; i < all.size(); i += 2) ASSERT_TRUE((*pool)->free_pages(all[i], Order{}));
    // A whole pageblock takes few.
    Page* const block = (*pool)->unmapped().unmapped_pages_alloc(k_pageblock_order).value();
    ASSERT_TRUE((*pool)->unmapped().unmapped_pages_free(block));
}

TEST_F(Unmapped, trimming_whole_pageblocks_writes_nothing_to_them) {
    Page* const page = take(k_pageblock_order, {.no_zero = true});
    free(page);
    os::FailCall writes{Call::pwrite, EIO, ~0ULL};  // counts
    const ScopedFaultInjector injected{writes};
    EXPECT_EQ(pool_->trim(pool_->capacity()).value(), PageCount{512});
    EXPECT_EQ(writes.seen(), 0U);
}

TEST_F(Unmapped, shrinking_takes_whole_pageblocks_first_and_no_more_than_was_asked) {
    std::vector<Page*> pages;
    for (std::uint32_t i = 0; i < 4 * k_pageblock_pages; ++i) pages.push_back(take());
    std::ranges::sort(pages, {}, [this](const Page* page) { return pool_->pfn(page); });
    Page* const kept = pages[700];  // in the second pageblock
    for (Page* const page : pages)
        if (page != kept) free(page);
    EXPECT_EQ(cache().shrink(PageCount{0}).value(), PageCount{0});
    EXPECT_EQ(cache().shrink(PageCount{513}).value(), PageCount{1024});
    EXPECT_EQ(statistics().released[9], 2U);
    EXPECT_EQ(cache().shrink(PageCount{512}).value(), PageCount{512});
    EXPECT_EQ(statistics().released[9], 3U);
    // Only parts are left: the largest first.
    EXPECT_EQ(cache().shrink(PageCount{100}).value(), PageCount{256});
    EXPECT_EQ(statistics().released[8], 1U);
    EXPECT_EQ(cache().shrink(PageCount{10'000}).value(), PageCount{255});
    EXPECT_EQ(statistics().free, PageCount{0});
    EXPECT_FALSE(readable(address(kept)));
    free(kept);
}

TEST_F(Unmapped, a_refill_serves_the_thread_that_called_for_it) {
    // As many threads as there are pageblocks, each of which wants one whole: none may find its refill stolen.
    for (int round = 0; round < 20; ++round) {
        std::array<Page*, k_blocks> got{};
        {
            std::vector<std::jthread> threads;
            for (Page*& page : got)
                threads.emplace_back([&] {
                    const auto taken = cache().unmapped_pages_alloc(k_pageblock_order);
                    page = taken ? *taken : nullptr;
                });
        }
        for (Page* const page : got) {
            ASSERT_NE(page, nullptr);
            free(page);
        }
        (void)cache().shrink(pool_->capacity());
    }
}

TEST_F(Unmapped, a_block_that_cannot_leave_goes_back_unharmed) {
    Page* const grown = pool_->alloc_pages(k_pageblock_order).value();
    ASSERT_TRUE(pool_->free_pages(grown, k_pageblock_order));
    {
        FailCall failing{Call::mmap, ENOMEM};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(cache().unmapped_pages_alloc(Order{}), ENOMEM, "out of the direct map"));
    }
    EXPECT_EQ(statistics().unmap_failures, 1U);
    EXPECT_EQ(statistics().free, PageCount{0});
    EXPECT_EQ(pool_->statistics().free, PageCount{512});
    EXPECT_TRUE(readable(address(grown)));
    free(take());
}

TEST_F(Unmapped, a_block_that_cannot_return_stays) {
    free(take());
    {
        FailCall failing{Call::mmap, ENOMEM, 0, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(cache().shrink(PageCount{1}), ENOMEM, "back into the direct map"));
    }
    EXPECT_EQ(statistics().restore_failures, 1U);
    EXPECT_EQ(statistics().free, PageCount{512});
    EXPECT_EQ(cache().shrink(PageCount{1}).value(), PageCount{512});
}

TEST_F(Unmapped, pages_that_cannot_be_zeroed_are_not_handed_out) {
    Page* const page = take();
    write(page);
    free(page);
    while (statistics().free != statistics().dirty) (void)take();
    {
        FailCall failing{Call::pwrite, EIO, 0, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(cache().unmapped_pages_alloc(Order{}), EIO, "write zeros"));
        EXPECT_TRUE(refused(cache().flush(), EIO, "write zeros"));
    }
    EXPECT_EQ(statistics().zero_failures, 2U);
    EXPECT_EQ(statistics().free, PageCount{1});
    Page* const again = take();
    EXPECT_EQ(again, page);
    EXPECT_TRUE(is_zero(again));
    for (std::uint32_t pfn = 0; pfn < 512; ++pfn) free(pool_->page(pageblock_begin(pool_->pfn(page)) + pfn));
}

TEST_F(Unmapped, statistics_are_a_table) {
    free(take());
    Page* const page = take(Order{1});
    EXPECT_EQ(to_text(statistics()),
              "Order:            0        1        2        3        4        5        6        7        8        9    "
              "   10\n"
              "Free:             2        0        1        1        1        1        1        1        1        0    "
              "    0\n"
              "Cached:           0        0        0        0        0        0        0        0        0        1    "
              "    0\n"
              "Released:         0        0        0        0        0        0        0        0        0        0    "
              "    0\n"
              "Pages:    510 free (1 to be zeroed), 2 allocated\n");
    free(page);
}

TEST(UnmappedHugetlb, unmapped_pages_of_reserved_huge_pages_are_refused) {
    const auto pool = PagePool::create({.capacity = PageCount{512}, .hugetlb = true});
    if (!pool) GTEST_SKIP() << pool.error().message();
    EXPECT_TRUE(refused((*pool)->unmapped().unmapped_pages_alloc(Order{}), ENOTSUP, "hugetlb"));
}

}  // namespace
}  // namespace harena
