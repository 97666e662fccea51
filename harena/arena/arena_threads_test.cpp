// SPDX-License-Identifier: Apache-2.0
//
// Threads that allocate, free, reserve and touch the same pages at the same time.
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/signal.hpp"

namespace harena {
namespace {

using test::make_arena;
using test::number;
using test::page_at;
using test::usage;

constexpr int k_rounds = test::k_sanitized ? 1'500 : 15'000;

// A touch that races with others on purpose: neither the compiler nor the thread sanitizer shall have an opinion.
__attribute__((no_sanitize("thread"), noinline)) unsigned char touch(std::byte* address, bool write) {
    auto& byte = *reinterpret_cast<volatile unsigned char*>(address);
    if (write) byte = 1;
    return byte;
}

/// Runs `body(thread, random)` in `count` threads that begin together.
void run_threads(unsigned count, const std::function<void(unsigned, std::mt19937_64&)>& body) {
    std::atomic<unsigned> ready{0};
    std::vector<std::thread> threads;
    threads.reserve(count);
    for (unsigned thread = 0; thread < count; ++thread)
        threads.emplace_back([&, thread] {
            std::mt19937_64 random{thread};
            ready.fetch_add(1);
            while (ready.load() != count) std::this_thread::yield();
            body(thread, random);
        });
    for (std::thread& thread : threads) thread.join();
}

/// Frees whatever is left and takes everything: each page is free exactly once, and clean.
void expect_whole_after_all(ProcessArena& arena) {
    arena.kfunc_free_pages(number(arena.data()), static_cast<std::uint32_t>(arena.pages().value()));
    EXPECT_EQ(usage(arena), "0 0");
    const auto all = arena.alloc_pages(arena.pages());
    ASSERT_TRUE(all) << all.error().message();
    EXPECT_TRUE(test::is_zero(arena.data(), arena.size()));
    EXPECT_FALSE(arena.alloc_pages(PageCount{1}));
    EXPECT_EQ(usage(arena), std::to_string(arena.pages().value()) + " 0");
}

// The shadow: who owns each page, 0 for nobody.
TEST(ArenaThreads, no_page_is_handed_out_twice_and_all_are_clean) {
    constexpr std::uint64_t k_pages = 64;
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    std::array<std::atomic<unsigned>, k_pages> owner{};
    std::atomic<std::uint64_t> twice{0};
    std::atomic<std::uint64_t> dirty{0};
    std::atomic<std::uint64_t> lost{0};
    std::atomic<std::uint64_t> allocations{0};
    run_threads(4, [&](unsigned thread, std::mt19937_64& random) {
        struct Mine {
            std::uint64_t first;
            std::uint64_t count;
        };
        std::vector<Mine> mine;
        const auto give_back = [&](const Mine& block) {
            for (std::uint64_t page = block.first; page < block.first + block.count; ++page) {
                const auto* const bytes = reinterpret_cast<const unsigned char*>(page_at(*arena, page));
                if (bytes[0] != thread + 1 || bytes[4095] != thread + 1) lost.fetch_add(1);
                if (owner[page].exchange(0) != thread + 1) lost.fetch_add(1);
            }
            if (!arena->free_pages(page_at(*arena, block.first), PageCount{block.count})) lost.fetch_add(1);
        };
        for (int round = 0; round < k_rounds; ++round) {
            if (!mine.empty() && random() % 2 == 0) {
                const std::size_t victim = random() % mine.size();
                give_back(mine[victim]);
                mine[victim] = mine.back();
                mine.pop_back();
                continue;
            }
            const std::uint64_t count = 1 + random() % 4;
            void* const wish = random() % 3 == 0 ? page_at(*arena, random() % (k_pages - 4)) : nullptr;
            const auto pages = arena->alloc_pages(PageCount{count}, {.address = wish});
            if (!pages) continue;
            allocations.fetch_add(1);
            const Mine block{(number(*pages) - number(arena->data())) / k_page_size, count};
            for (std::uint64_t page = block.first; page < block.first + count; ++page) {
                if (owner[page].exchange(thread + 1) != 0) twice.fetch_add(1);
                auto* const bytes = reinterpret_cast<unsigned char*>(page_at(*arena, page));
                if (!test::is_zero(page_at(*arena, page), k_page_size)) dirty.fetch_add(1);
                bytes[0] = bytes[4095] = static_cast<unsigned char>(thread + 1);
            }
            mine.push_back(block);
        }
        for (const Mine& block : mine) give_back(block);
    });
    EXPECT_EQ(twice.load(), 0U);
    EXPECT_EQ(dirty.load(), 0U);
    EXPECT_EQ(lost.load(), 0U);
    EXPECT_GT(allocations.load(), static_cast<std::uint64_t>(k_rounds) / 10);
    EXPECT_EQ(usage(*arena), "0 0");
    expect_whole_after_all(*arena);
}

// Programs that look at pages which others allocate and free see zero, or what a thread wrote, and make no page.
TEST(ArenaThreads, programs_reading_pages_that_come_and_go_see_zero_or_their_content) {
    constexpr std::uint64_t k_pages = 8;
    constexpr std::uint64_t k_content = 0x1122'3344'5566'7788;
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    std::atomic<unsigned> allocating{2};
    std::atomic<std::uint64_t> wrong{0};
    std::atomic<std::uint64_t> present{0};
    run_threads(4, [&](unsigned thread, std::mt19937_64& random) {
        if (thread < 2) {
            for (int round = 0; round < k_rounds; ++round) {
                const std::uint64_t address = arena->kfunc_alloc_pages(0, 1, -1, 0);
                if (address == 0) continue;
                nofault::store(address, 8, k_content);
                arena->kfunc_free_pages(address, 1);
            }
            allocating.fetch_sub(1);
            return;
        }
        while (allocating.load() != 0) {
            const auto access = nofault::load(number(page_at(*arena, random() % k_pages)), 8);
            if (access.value != 0 && access.value != k_content) wrong.fetch_add(1);
            present.fetch_add(1 - access.faulted);
        }
    });
    EXPECT_EQ(wrong.load(), 0U);
    EXPECT_EQ(usage(*arena), "0 0");
    EXPECT_EQ(test::host_faults(*arena), 0U);
    expect_whole_after_all(*arena);
}

// The host touches pages that others free: its use after free, which may lose data but no page and no thread.
TEST(ArenaThreads, touches_racing_with_frees_and_allocations_leave_the_arena_whole) {
    constexpr std::uint64_t k_pages = 4;
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    run_threads(4, [&](unsigned thread, std::mt19937_64& random) {
        for (int round = 0; round < k_rounds; ++round) {
            std::byte* const page = page_at(*arena, random() % k_pages);
            switch (thread < 2 ? 0 : random() % 5) {
                case 0:
                    touch(page + random() % k_page_size, random() % 2 == 0);
                    break;
                case 1:
                    arena->kfunc_free_pages(number(page), 1 + static_cast<std::uint32_t>(random() % 3));
                    break;
                case 2:
                    (void)arena->free_pages(page, PageCount{1});
                    break;
                case 3:
                    (void)arena->kfunc_alloc_pages(random() % 2 == 0 ? 0 : number(page), 1, -1, 0);
                    break;
                default:
                    (void)arena->populate(page, 1);
            }
        }
    });
    expect_whole_after_all(*arena);
}

TEST(ArenaThreads, reservations_racing_with_touches_leave_the_arena_whole) {
    constexpr std::uint64_t k_pages = 6;
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    run_threads(4, [&](unsigned thread, std::mt19937_64& random) {
        for (int round = 0; round < k_rounds; ++round) {
            const std::uint64_t first = random() % k_pages;
            const auto count = static_cast<std::uint32_t>(1 + random() % (k_pages - first));
            const std::uint64_t address = number(page_at(*arena, first));
            if (thread < 2) {
                touch(page_at(*arena, first), false);
            } else if (random() % 2 == 0) {
                (void)arena->kfunc_reserve_pages(address, count);
            } else {
                arena->kfunc_free_pages(address, count);
            }
        }
    });
    // Every page is used or reserved or free, and nothing else: not stuck on the way.
    const auto statistics = arena->statistics().value();
    std::uint64_t free_pages = 0;
    while (arena->kfunc_alloc_pages(0, 1, -1, 0) != 0) ++free_pages;
    EXPECT_EQ(free_pages, k_pages - statistics.used.value() - statistics.reserved.value());
    expect_whole_after_all(*arena);
}

// A reservation that meets a touched page half way through gives back what it had, and nothing that a touch took
// meanwhile.
TEST(ArenaThreads, a_refused_reservation_leaves_no_page_reserved) {
    constexpr std::uint32_t k_pages = 4096;
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    const std::uint64_t begin = number(arena->data());
    std::atomic<bool> stop{false};
    std::uint64_t left_reserved = 0;
    run_threads(3, [&](unsigned thread, std::mt19937_64& random) {
        while (thread != 0 && !stop) {
            // One touches early pages, one the last: the reservation of all comes by there last.
            touch(page_at(*arena, thread == 1 ? random() % 8 : k_pages - 1), false);
        }
        for (int round = 0; thread == 0 && round < k_rounds / 10; ++round) {
            const bool reserved = arena->kfunc_reserve_pages(begin, k_pages) == 0;
            if (!reserved) left_reserved += arena->statistics().value().reserved.value();
            arena->kfunc_free_pages(begin, k_pages);
        }
        if (thread == 0) stop = true;
    });
    EXPECT_EQ(left_reserved, 0U);
    expect_whole_after_all(*arena);
}

// Two threads touch every page for the first time while a third allocates what is left.
TEST(ArenaThreads, first_touches_racing_with_allocation_lose_no_write) {
    constexpr std::uint64_t k_pages = 512;
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    std::array<std::atomic<bool>, k_pages> allocated{};
    run_threads(3, [&](unsigned thread, std::mt19937_64&) {
        if (thread == 2) {
            for (;;) {
                const std::uint64_t address = arena->kfunc_alloc_pages(0, 1, -1, 0);
                if (address == 0) return;
                allocated[(address - number(arena->data())) / k_page_size] = true;
            }
        }
        for (std::uint64_t page = 0; page < k_pages; ++page) {
            auto* const byte = page_at(*arena, page) + thread;
            touch(byte, true);
        }
    });
    EXPECT_EQ(usage(*arena), "512 0");
    std::uint64_t lost = 0;
    for (std::uint64_t page = 0; page < k_pages; ++page)
        for (std::uint64_t thread = 0; thread < 2; ++thread)
            // Where both met, the allocation's clearing may come after the touch.
            if (!allocated[page] && page_at(*arena, page)[thread] != std::byte{1}) ++lost;
    EXPECT_EQ(lost, 0U);
    expect_whole_after_all(*arena);
}

// Arenas come and go beside faults in another one.
TEST(ArenaThreads, faults_are_answered_while_other_arenas_come_and_go) {
    const auto arena = make_arena(64);
    ASSERT_NE(arena, nullptr);
    constexpr int k_arenas = test::k_sanitized ? 20 : 200;
    std::atomic<bool> stop{false};
    run_threads(3, [&](unsigned thread, std::mt19937_64& random) {
        if (thread == 0) {
            for (int i = 0; i < k_arenas; ++i) {
                const auto other = make_arena(2);
                ASSERT_NE(other, nullptr);
                touch(other->data(), true);
            }
            stop = true;
            return;
        }
        while (!stop) {
            std::byte* const page = page_at(*arena, 2 * (random() % 32) + thread - 1);
            touch(page, true);
            EXPECT_TRUE(arena->free_pages(page, PageCount{1}));
            EXPECT_EQ(nofault::load(number(arena->window()) - 8, 8).faulted, 1U);
        }
    });
    expect_whole_after_all(*arena);
}

TEST(ThreadSignals, an_alternate_stack_that_is_too_small_is_refused_by_name) {
    std::thread{[] {
        std::vector<std::byte> memory(os::minimal_signal_stack());
        stack_t stack{};
        stack.ss_sp = memory.data();
        stack.ss_size = memory.size();
        const auto before = os::sigaltstack(&stack);
        ASSERT_TRUE(before) << os::describe(before.error());
        const auto prepared = fault_handler::prepare_thread();
        ASSERT_FALSE(prepared);
        EXPECT_EQ(prepared.error().code(), EINVAL);
        EXPECT_NE(prepared.error().message().find(std::to_string(memory.size())), std::string::npos);
        (void)os::sigaltstack(&*before);  // a sanitizer had one here
        EXPECT_TRUE(fault_handler::prepare_thread());
    }}.join();
}

}  // namespace
}  // namespace harena
