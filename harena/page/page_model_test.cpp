// SPDX-License-Identifier: Apache-2.0
// A million random operations on many threads beside a naive model: a map of who owns each page, and what each page
// holds.
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "harena/page/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

constexpr std::uint32_t k_pages = 24 * k_pageblock_pages;
constexpr unsigned k_threads = 4;
constexpr unsigned k_operations = 1'000'000 / k_threads;

/// What all threads share: the pool, and who has each page.
struct Model {
    std::unique_ptr<PagePool> pool = test::make_pool(PageCount{k_pages});
    std::unique_ptr<std::atomic<std::uint64_t>[]> owners = std::make_unique<std::atomic<std::uint64_t>[]>(k_pages);
    PageAccount all{"all", PageCount{k_pages / 2}};
    std::atomic<std::uint64_t> failures{0};

    void check(bool holds, const char* what) {
        if (!holds && failures.fetch_add(1) < 10) ADD_FAILURE() << what;
    }
};

struct Block {
    Page* page;
    Order order;
    bool unmapped;
    bool charged;
    std::uint64_t id;  // in the model, and in the pages' bytes
};

/// One thread's operations.
class Worker {
public:
    Worker(Model& model, unsigned number) : model_{model}, number_{number}, random_{number} {}

    void run() {
        for (unsigned i = 0; i < k_operations; ++i) step();
        while (!blocks_.empty()) free(blocks_.size() - 1);
    }

private:
    std::uint32_t below(std::uint32_t limit) { return static_cast<std::uint32_t>(random_() % limit); }

    void step() {
        const std::uint32_t what = below(1000);
        if (what < 480 && pages_ < k_pages / k_threads) {
            alloc();
        } else if (what < 990) {
            if (!blocks_.empty()) free(below(static_cast<std::uint32_t>(blocks_.size())));
        } else if (what < 994) {
            model_.check(model_.pool->unmapped().shrink(PageCount{below(2000)}).has_value(), "shrink fails");
        } else if (what < 996) {
            model_.check(model_.pool->unmapped().flush().has_value(), "flush fails");
        } else if (what < 998) {
            model_.check(model_.pool->trim(PageCount{below(3000)}).has_value(), "trim fails");
        } else if (what < 999) {
            bulk();
        } else {
            model_.all.set_limit(PageCount{k_pages / 4 + below(k_pages / 4)});
        }
    }

    Order some_order() {
        // Small ones are more frequent; each order occurs.
        std::uint8_t order = 0;
        while (order < k_max_order.value() && below(10) < 3) ++order;
        return Order{order};
    }

    void alloc() {
        Block block{.page = nullptr,
                    .order = some_order(),
                    .unmapped = below(3) == 0,
                    .charged = below(4) == 0,
                    .id = ++serial_ * k_threads + number_};
        const AllocFlags flags{.no_zero = below(3) == 0, .account = block.charged ? &model_.all : nullptr};
        const auto page = block.unmapped ? model_.pool->unmapped().unmapped_pages_alloc(block.order, flags)
                                         : model_.pool->alloc_pages(block.order, flags);
        if (!page) {
            model_.check(page.error().code() == ENOMEM, "an allocation fails for another reason than memory");
            return;
        }
        block.page = *page;
        model_.check((*page)->unmapped() == block.unmapped, "a block is not on its side of the direct map");
        take(block, !flags.no_zero);
    }

    void bulk() {
        std::array<Page*, 70> pages{};
        if (!model_.pool->alloc_bulk(pages)) return;
        for (Page* const page : pages)
            take({.page = page,
                  .order = Order{},
                  .unmapped = false,
                  .charged = false,
                  .id = ++serial_ * k_threads + number_},
                 true);
    }

    void take(const Block& block, bool zero) {
        const std::uint32_t first = model_.pool->pfn(block.page).value();
        model_.check(first % pages_of(block.order) == 0, "a block is not aligned");
        for (std::uint32_t i = 0; i < pages_of(block.order); ++i)
            model_.check(model_.owners[first + i].exchange(block.id) == 0, "two owners of a page");
        for (const std::uint32_t i : looked_at(block)) {
            if (zero) model_.check(read(block, i) == std::array<std::uint64_t, 2>{}, "a page is not zero");
            write(block, i);
        }
        pages_ += pages_of(block.order);
        blocks_.push_back(block);
    }

    void free(std::size_t index) {
        const Block block = blocks_[index];
        blocks_[index] = blocks_.back();
        blocks_.pop_back();
        pages_ -= pages_of(block.order);
        const std::uint32_t first = model_.pool->pfn(block.page).value();
        for (const std::uint32_t i : looked_at(block))
            model_.check(read(block, i) == std::array{block.id, ~block.id}, "a page does not hold what was written");
        for (std::uint32_t i = 0; i < pages_of(block.order); ++i)
            model_.check(model_.owners[first + i].exchange(0) == block.id, "a page was another's");
        if (below(8) == 0) {
            model_.check(model_.pool->get_page(block.page).has_value(), "get_page fails");
            model_.check(model_.pool->put_page(block.page).has_value(), "put_page fails");
        }
        const bool by_pool = !block.unmapped || below(2) == 0;
        const auto freed = by_pool ? model_.pool->free_pages(block.page, block.order)
                                   : model_.pool->unmapped().unmapped_pages_free(block.page);
        model_.check(freed.has_value(), "a free fails");
    }

    /// The pages of a block whose bytes are written and read: of a large block, the outer ones.
    static std::vector<std::uint32_t> looked_at(const Block& block) {
        const std::uint32_t pages = pages_of(block.order);
        if (pages == 1) return {0};
        if (pages == 2) return {0, 1};
        return {0, pages / 2, pages - 1};
    }

    // First and last word of a page.
    [[nodiscard]] std::uint64_t offset(const Block& block, std::uint32_t page) const {
        return byte_offset(model_.pool->pfn(block.page) + page);
    }
    std::array<std::uint64_t, 2> read(const Block& block, std::uint32_t page) {
        std::array<std::uint64_t, 2> words{1, 1};
        if (block.unmapped) {
            const auto at = static_cast<off_t>(offset(block, page));
            const bool done = ::pread(model_.pool->fd(), words.data(), 8, at) == 8 &&
                              ::pread(model_.pool->fd(), &words[1], 8, at + 4088) == 8;
            model_.check(done, "pread fails");
        } else {
            const std::byte* const at = model_.pool->page_address(block.page) + page * k_page_size;
            std::memcpy(words.data(), at, 8);
            std::memcpy(&words[1], at + 4088, 8);
        }
        return words;
    }
    void write(const Block& block, std::uint32_t page) {
        const std::array<std::uint64_t, 2> words{block.id, ~block.id};
        if (block.unmapped) {
            const auto at = static_cast<off_t>(offset(block, page));
            const bool done = ::pwrite(model_.pool->fd(), words.data(), 8, at) == 8 &&
                              ::pwrite(model_.pool->fd(), &words[1], 8, at + 4088) == 8;
            model_.check(done, "pwrite fails");
        } else {
            std::byte* const at = model_.pool->page_address(block.page) + page * k_page_size;
            std::memcpy(at, words.data(), 8);
            std::memcpy(at + 4088, &words[1], 8);
        }
    }

    Model& model_;
    unsigned number_;
    std::mt19937 random_;
    std::uint64_t serial_ = 0;
    std::vector<Block> blocks_;
    std::uint64_t pages_ = 0;
};

TEST(PageModel, a_million_operations_lose_nothing_and_share_nothing) {
    Model model;
    {
        std::vector<std::jthread> threads;
        for (unsigned i = 0; i < k_threads; ++i) threads.emplace_back([&model, i] { Worker{model, i}.run(); });
    }
    EXPECT_EQ(model.failures.load(), 0U);
    for (std::uint32_t i = 0; i < k_pages; ++i) ASSERT_EQ(model.owners[i].load(), 0U) << i;
    EXPECT_EQ(model.all.used(), PageCount{0});
    EXPECT_LE(model.all.peak(), PageCount{k_pages / 2});

    PagePool& pool = *model.pool;
    EXPECT_EQ(pool.statistics().allocated, PageCount{0});
    EXPECT_EQ(pool.unmapped().statistics().allocated, PageCount{0});
    const std::uint64_t unmapped = pool.statistics().unmapped_free.value();
    EXPECT_EQ(pool.reclaim(pool.capacity()).value(), PageCount{unmapped});
    // All of it is free, in whole pageblocks, and mapped.
    const PagePoolStatistics home = pool.statistics();
    EXPECT_EQ(home.free, home.grown);
    EXPECT_EQ(home.free_blocks[9] * 512 + home.free_blocks[10] * 1024, home.grown.value());
    for (std::uint32_t i = 0; i < k_pages; i += k_pageblock_pages)
        EXPECT_EQ(pool.unmapped_in_pageblock(Pfn{i}), 0U) << i;
    EXPECT_EQ(pool.trim(pool.capacity()).value(), home.grown);
    EXPECT_EQ(test::bytes_in_use(pool.fd()), 0U);
}

}  // namespace
}  // namespace harena
