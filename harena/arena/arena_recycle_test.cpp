// SPDX-License-Identifier: Apache-2.0
//
// Freed pages that keep their memory, centrally and with each thread: never dirty, never twice, never too many, never
// out of the others' reach.
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::make_tuned_arena;
using test::number;
using test::page_at;
using test::refused;
using test::usage;

constexpr std::uint64_t k_pages = 4096;

std::uint64_t recycled(ProcessArena& arena) { return arena.statistics().value().recycled.value(); }

std::shared_ptr<ProcessArena> arena_keeping(std::uint64_t recycle, std::uint64_t pages = k_pages) {
    return make_tuned_arena(
        {.pages = PageCount{pages}, .tuning = {.recycle = PageCount{recycle}, .huge_pages = HugePages::never}});
}

/// The page, or a failed test and null; written to all over.
std::byte* take_dirty(ProcessArena& arena, std::uint64_t count = 1, void* where = nullptr) {
    const auto pages = arena.alloc_pages(PageCount{count}, {.address = where});
    if (!test::ok(pages)) return nullptr;
    auto* const begin = static_cast<std::byte*>(*pages);
    EXPECT_TRUE(test::is_zero(begin, count * k_page_size));
    std::memset(begin, 0xee, count * k_page_size);
    return begin;
}

void run_threads(unsigned count, const std::function<void(unsigned)>& body) {
    std::vector<std::thread> threads;
    threads.reserve(count);
    for (unsigned i = 0; i < count; ++i) threads.emplace_back(body, i);
    for (std::thread& thread : threads) thread.join();
}

/// Frees whatever is left, and takes everything.
void expect_whole(ProcessArena& arena) {
    arena.kfunc_free_pages(number(arena.data()), static_cast<std::uint32_t>(arena.pages().value()));
    EXPECT_EQ(usage(arena), "0 0");
    ASSERT_TRUE(test::ok(arena.alloc_pages(arena.pages())));
    EXPECT_TRUE(test::is_zero(arena.data(), arena.size()));
}

/// How many pages may be kept: none; too few for magazines; for one; for many.
class ArenaRecycle : public ::testing::TestWithParam<std::uint64_t> {
protected:
    void SetUp() override {
        arena_ = arena_keeping(GetParam());
        ASSERT_NE(arena_, nullptr);
    }
    void TearDown() override {
        EXPECT_LE(recycled(*arena_), GetParam());
        expect_whole(*arena_);
    }
    std::shared_ptr<ProcessArena> arena_;
};
INSTANTIATE_TEST_SUITE_P(Keeping, ArenaRecycle, ::testing::Values(0U, 1U, 100U, 128U, 2048U),
                         [](const auto& bound) { return std::to_string(bound.param); });

TEST_P(ArenaRecycle, single_pages_that_were_freed_read_zero) {
    for (int turn = 0; turn < 3; ++turn) {
        std::vector<std::byte*> mine;
        for (int i = 0; i < 200; ++i) mine.push_back(take_dirty(*arena_));
        EXPECT_EQ(std::set(mine.begin(), mine.end()).size(), 200U);
        for (std::byte* const page : mine) ASSERT_TRUE(test::ok(arena_->free_pages(page, PageCount{1})));
        EXPECT_LE(recycled(*arena_), GetParam());
    }
}

TEST_P(ArenaRecycle, ranges_that_were_freed_read_zero) {
    for (int turn = 0; turn < 3; ++turn)
        for (const std::uint64_t count : {2U, 100U, 1000U, 3U}) {
            std::byte* const range = take_dirty(*arena_, count);
            ASSERT_TRUE(test::ok(arena_->free_pages(range, PageCount{count})));
            EXPECT_LE(recycled(*arena_), GetParam());
        }
}

TEST_P(ArenaRecycle, pages_at_an_address_that_were_freed_read_zero) {
    for (int turn = 0; turn < 3; ++turn) {
        std::byte* const range = take_dirty(*arena_, 40, page_at(*arena_, 300));
        // Some go to the magazine and some do not; then they are asked for together and one by one.
        for (std::uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(arena_->free_pages(range + i * k_page_size, PageCount{1}));
        ASSERT_TRUE(arena_->free_pages(range + 20 * k_page_size, PageCount{20}));
        EXPECT_EQ(take_dirty(*arena_, 1, page_at(*arena_, 310)), page_at(*arena_, 310));
        EXPECT_EQ(take_dirty(*arena_, 29, page_at(*arena_, 311)), page_at(*arena_, 311));
        ASSERT_TRUE(arena_->free_pages(page_at(*arena_, 310), PageCount{30}));
    }
}

TEST_P(ArenaRecycle, pages_of_another_thread_read_zero) {
    std::vector<std::byte*> pages;
    for (int turn = 0; turn < 3; ++turn) {
        std::thread{[&] {
            for (int i = 0; i < 100; ++i) pages.push_back(take_dirty(*arena_));
        }}.join();
        std::thread{[&] {
            for (std::byte* const page : pages) ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
        }}.join();
        pages.clear();
    }
}

TEST_P(ArenaRecycle, a_reserved_page_has_no_memory_of_before) {
    std::byte* const page = take_dirty(*arena_);
    ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
    ASSERT_TRUE(test::ok(arena_->reserve_pages(page, PageCount{1})));
    EXPECT_TRUE(test::is_zero(page, k_page_size));
    std::memset(page, 0xee, k_page_size);
    ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
    EXPECT_EQ(take_dirty(*arena_, 1, page), page);
}

TEST_P(ArenaRecycle, populated_again_they_are_used_and_zero) {
    std::byte* const pages = take_dirty(*arena_, 3);
    ASSERT_TRUE(arena_->free_pages(pages, PageCount{2}));
    ASSERT_TRUE(arena_->free_pages(pages + 2 * k_page_size, PageCount{1}));
    ASSERT_TRUE(test::ok(arena_->populate(pages, 3 * k_page_size)));
    EXPECT_TRUE(test::is_zero(pages, 3 * k_page_size));
    EXPECT_EQ(usage(*arena_), "3 0");
}

TEST_P(ArenaRecycle, whose_memory_somebody_took_away_get_new_memory) {
    std::vector<std::byte*> mine;
    for (int i = 0; i < 4; ++i) mine.push_back(take_dirty(*arena_));
    std::byte* const range = take_dirty(*arena_, 4);
    for (std::byte* const page : mine) ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
    ASSERT_TRUE(arena_->free_pages(range, PageCount{4}));
    ASSERT_EQ(::madvise(arena_->data(), arena_->size(), MADV_REMOVE), 0);
    for (int i = 0; i < 4; ++i) take_dirty(*arena_);
    take_dirty(*arena_, 4);
}

TEST_P(ArenaRecycle, the_bound_holds_after_many_frees_of_several_threads) {
    run_threads(4, [&](unsigned thread) {
        std::mt19937_64 random{thread};
        std::vector<std::pair<std::byte*, std::uint64_t>> mine;
        const auto free_all = [&] {
            for (const auto& [page, count] : mine) EXPECT_TRUE(arena_->free_pages(page, PageCount{count}));
            mine.clear();
        };
        for (int turn = 0; turn < (test::k_sanitized ? 20 : 100); ++turn) {
            for (std::uint64_t i = random() % 200; i > 0; --i) {
                const std::uint64_t count = random() % 8 == 0 ? 1 + random() % 16 : 1;
                if (const auto pages = arena_->alloc_pages(PageCount{count}))
                    mine.emplace_back(static_cast<std::byte*>(*pages), count);
            }
            free_all();
        }
    });
    EXPECT_EQ(usage(*arena_), "0 0");
    EXPECT_LE(recycled(*arena_), GetParam());
}

TEST_P(ArenaRecycle, no_page_is_handed_out_twice_and_all_are_clean) {
    std::vector<std::atomic<unsigned>> owner(k_pages);
    std::atomic<std::uint64_t> twice{0};
    std::atomic<std::uint64_t> dirty{0};
    std::atomic<std::uint64_t> lost{0};
    run_threads(4, [&](unsigned thread) {
        std::mt19937_64 random{thread};
        std::vector<std::pair<std::uint64_t, std::uint64_t>> mine;
        for (int round = 0; round < (test::k_sanitized ? 2'000 : 20'000); ++round) {
            if (mine.size() > 200 || (!mine.empty() && random() % 2 == 0)) {
                std::swap(mine[random() % mine.size()], mine.back());
                const auto [first, count] = mine.back();
                mine.pop_back();
                for (std::uint64_t page = first; page < first + count; ++page)
                    if (owner[page].exchange(0) != thread + 1) lost.fetch_add(1);
                if (!arena_->free_pages(page_at(*arena_, first), PageCount{count})) lost.fetch_add(1);
                continue;
            }
            const std::uint64_t count = random() % 4 == 0 ? 2 + random() % 30 : 1;
            void* const wish = random() % 8 == 0 ? page_at(*arena_, random() % (k_pages - 32)) : nullptr;
            const auto pages = arena_->alloc_pages(PageCount{count}, {.address = wish});
            if (!pages) continue;
            const std::uint64_t first = (number(*pages) - number(arena_->data())) / k_page_size;
            for (std::uint64_t page = first; page < first + count; ++page) {
                if (owner[page].exchange(thread + 1) != 0) twice.fetch_add(1);
                if (!test::is_zero(page_at(*arena_, page), k_page_size)) dirty.fetch_add(1);
                std::memset(page_at(*arena_, page), 0xee, k_page_size);
            }
            mine.emplace_back(first, count);
        }
    });
    EXPECT_EQ(twice, 0U);
    EXPECT_EQ(dirty, 0U);
    EXPECT_EQ(lost, 0U);
}

TEST_P(ArenaRecycle, a_free_of_two_threads_at_once_frees_once) {
    for (int turn = 0; turn < (test::k_sanitized ? 20 : 200); ++turn) {
        std::byte* const page = take_dirty(*arena_);
        std::atomic<int> succeeded{0};
        run_threads(2, [&](unsigned) { succeeded += arena_->free_pages(page, PageCount{1}).has_value() ? 1 : 0; });
        ASSERT_GE(succeeded, 1);
        ASSERT_EQ(usage(*arena_), "0 0");
        // Had it been put at hand twice, two would get it now.
        std::set<std::byte*> got;
        for (int i = 0; i < 70; ++i) got.insert(take_dirty(*arena_));
        ASSERT_EQ(got.size(), 70U) << turn;
        for (std::byte* const each : got) ASSERT_TRUE(arena_->free_pages(each, PageCount{1}));
        EXPECT_TRUE(refused(arena_->free_pages(page, PageCount{1}), EINVAL, "free already"));
    }
}

TEST_P(ArenaRecycle, all_pages_are_to_be_had_while_other_threads_hold_free_ones_at_hand) {
    std::atomic<unsigned> holding{0};
    std::atomic<bool> done{false};
    std::vector<std::thread> holders;
    for (unsigned i = 0; i < 4; ++i)
        holders.emplace_back([&] {
            std::array<std::byte*, 50> pages{};
            for (std::byte*& page : pages) page = take_dirty(*arena_);
            for (std::byte* const page : pages) EXPECT_TRUE(arena_->free_pages(page, PageCount{1}));
            holding.fetch_add(1);
            holding.notify_all();
            done.wait(false);
            EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}), ENOMEM, "")) << "what it had at hand is another's";
        });
    for (unsigned now = 0; (now = holding.load()) != holders.size();) holding.wait(now);
    for (std::uint64_t i = 0; i < k_pages; ++i) {
        const auto page = arena_->alloc_pages(PageCount{1});
        EXPECT_TRUE(page) << i;
        if (!page) break;
    }
    EXPECT_EQ(usage(*arena_), "4096 0");
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}), ENOMEM, ""));
    done = true;
    done.notify_all();
    for (std::thread& holder : holders) holder.join();
}

TEST_P(ArenaRecycle, the_whole_arena_is_one_range_while_threads_hold_free_pages_at_hand) {
    std::byte* const page = take_dirty(*arena_);
    ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
    EXPECT_EQ(take_dirty(*arena_, k_pages), arena_->data());
}

TEST_P(ArenaRecycle, a_threads_pages_are_had_again_after_its_end) {
    for (int turn = 0; turn < 100; ++turn)
        std::thread{[&] {
            std::byte* const page = take_dirty(*arena_);
            ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
        }}.join();
    EXPECT_LE(recycled(*arena_), GetParam());
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_P(ArenaRecycle, none_is_kept_once_none_may_be) {
    std::vector<std::byte*> mine;
    for (int i = 0; i < 300; ++i) mine.push_back(take_dirty(*arena_));
    for (std::byte* const page : mine) ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
    ASSERT_TRUE(test::ok(arena_->set_recycle(PageCount{0})));
    EXPECT_EQ(recycled(*arena_), 0U);
    std::byte* const page = take_dirty(*arena_);
    EXPECT_EQ(recycled(*arena_), 0U) << "an allocation brings no others";
    ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
    EXPECT_EQ(recycled(*arena_), 0U);
    EXPECT_EQ(test::byte_at(page), 0);
    EXPECT_EQ(usage(*arena_), "1 0") << "a use after free shows";
}

TEST_P(ArenaRecycle, a_smaller_bound_holds_at_once_and_from_then_on) {
    for (const std::uint64_t bound : {1000U, 130U, 60U, 10U, 1U}) {
        std::vector<std::byte*> mine;
        for (int i = 0; i < 300; ++i) mine.push_back(take_dirty(*arena_));
        for (std::byte* const page : mine) ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
        ASSERT_TRUE(test::ok(arena_->set_recycle(PageCount{bound})));
        EXPECT_LE(recycled(*arena_), bound);
        std::byte* const page = take_dirty(*arena_);
        EXPECT_LE(recycled(*arena_), bound) << "after an allocation";
        ASSERT_TRUE(arena_->free_pages(page, PageCount{1}));
        EXPECT_LE(recycled(*arena_), bound) << "after a free";
    }
    ASSERT_TRUE(arena_->set_recycle(PageCount{GetParam()}));
    std::byte* const range = take_dirty(*arena_, 4);
    ASSERT_TRUE(arena_->free_pages(range, PageCount{4}));
    EXPECT_EQ(recycled(*arena_), GetParam() >= 4 ? 4U : recycled(*arena_)) << "and a larger one is used";
}

}  // namespace
}  // namespace harena
