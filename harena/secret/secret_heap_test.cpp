// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_heap.hpp"

#include <cerrno>
#include <thread>

#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using test::is_zero;
using test::Pattern;
using test::refused;

class SecretHeapBasics : public test::SecretHeapTest {};

TEST_F(SecretHeapBasics, secrets_of_all_sizes_are_zero_aligned_and_apart) {
    std::vector<std::pair<std::byte*, std::size_t>> live;
    for (std::size_t bytes = 1; bytes < 20'000; bytes += bytes < 2200 ? 1 : 997) {
        std::byte* const at = alloc(bytes);
        ASSERT_NE(at, nullptr);
        EXPECT_TRUE(is_zero(at, bytes));
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % 16, 0U);
        EXPECT_EQ(heap_->size_of(at), bytes);
        Pattern{bytes}.fill(at, bytes);
        live.emplace_back(at, bytes);
    }
    EXPECT_EQ(heap_->statistics().live, live.size());
    for (const auto& [at, bytes] : live) {
        EXPECT_TRUE(Pattern{bytes}.is_at(at, bytes)) << bytes;
        free(at);
    }
    EXPECT_EQ(heap_->statistics().live, 0U);
    EXPECT_EQ(heap_->statistics().live_bytes, 0U);
}

TEST_F(SecretHeapBasics, freed_secrets_read_zero_at_once) {
    for (const std::size_t bytes : {1U, 16U, 32U, 33U, 100U, 1000U, 2016U}) {
        std::byte* const at = alloc(bytes);
        Pattern{1}.fill(at, bytes);
        free(at);
        EXPECT_TRUE(is_zero(at, bytes)) << bytes;
    }
}

TEST_F(SecretHeapBasics, freed_runs_read_zero_or_trap) {
    std::byte* const run = alloc(10'000);
    Pattern{1}.fill(run, 10'000);
    free(run);
    EXPECT_TRUE(is_zero(run, 10'000)) << "its pages are the block's";
    std::byte* const guarded = alloc(10'000, {.guarded = true});
    Pattern{1}.fill(guarded, 10'000);
    free(guarded);
    EXPECT_FALSE(test::readable(guarded));
}

TEST_F(SecretHeapBasics, alignment_is_what_was_asked_for) {
    for (std::size_t alignment = 1; alignment <= k_page_size; alignment *= 2)
        for (const bool guarded : {false, true})
            for (const std::size_t bytes : {1U, 100U, 4096U, 70'000U}) {
                std::byte* const at = alloc(bytes, {.alignment = alignment, .guarded = guarded});
                EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % std::max<std::size_t>(16, alignment), 0U);
                EXPECT_TRUE(is_zero(at, bytes));
                EXPECT_EQ(heap_->size_of(at), bytes);
                Pattern{alignment}.fill(at, bytes);
                free(at);
            }
}

TEST_F(SecretHeapBasics, guarded_secrets_are_between_inaccessible_pages) {
    std::byte* const at = alloc(32, {.guarded = true});
    EXPECT_TRUE(test::readable(at + 31));
    EXPECT_FALSE(test::readable(at + 32)) << "one byte too many traps";
    std::byte* const first = reinterpret_cast<std::byte*>(align_down(reinterpret_cast<std::uint64_t>(at), k_page_size));
    EXPECT_FALSE(test::readable(first - 1));
    free(at);
}

TEST_F(SecretHeapBasics, blocks_are_between_inaccessible_pages) {
    std::byte* const at = alloc(32);
    std::byte* const page = reinterpret_cast<std::byte*>(align_down(reinterpret_cast<std::uint64_t>(at), k_page_size));
    EXPECT_FALSE(test::readable(page - 1));
    std::uint64_t pages = 0;
    while (test::readable(page + pages * k_page_size)) ++pages;
    EXPECT_EQ(pages * k_page_size, heap_->statistics().locked_bytes);
    EXPECT_EQ(heap_->statistics().blocks, 1U);
    free(at);
}

TEST_F(SecretHeapBasics, bad_requests_are_errors_that_say_so) {
    EXPECT_TRUE(refused(heap_->alloc(0), EINVAL, "0 bytes"));
    EXPECT_TRUE(refused(heap_->alloc(8, {.alignment = 0}), EINVAL, "power of two"));
    EXPECT_TRUE(refused(heap_->alloc(8, {.alignment = 3}), EINVAL, "power of two"));
    EXPECT_TRUE(refused(heap_->alloc(8, {.alignment = 24}), EINVAL, "power of two"));
    EXPECT_TRUE(refused(heap_->alloc(8, {.alignment = 8192}), EINVAL, "4096"));
    EXPECT_TRUE(refused(heap_->alloc(k_gib), ENOMEM, "capacity"));
    EXPECT_TRUE(refused(heap_->alloc(k_gib + 1), ENOMEM, "capacity"));
    EXPECT_TRUE(refused(heap_->alloc(~std::size_t{0}), ENOMEM, "capacity"));
    EXPECT_TRUE(heap_->free(nullptr));
    EXPECT_EQ(heap_->statistics().live, 0U);
}

TEST_F(SecretHeapBasics, capacity_is_checked_and_held) {
    EXPECT_TRUE(refused(SecretHeap::create({.capacity = 0}), EINVAL, "multiple"));
    EXPECT_TRUE(refused(SecretHeap::create({.capacity = 4096}), EINVAL, "multiple"));
    EXPECT_TRUE(refused(SecretHeap::create({.capacity = 10'000}), EINVAL, "multiple"));
    EXPECT_TRUE(refused(SecretHeap::create({.capacity = std::uint64_t{1} << 41}), EINVAL, "multiple"));
    const auto small = SecretHeap::create({.capacity = 32 * k_kib}).value();
    std::vector<void*> live;
    Result<void*> last = small->alloc(2000);
    for (; last; last = small->alloc(2000)) live.push_back(*last);
    EXPECT_TRUE(refused(last, ENOMEM, "capacity"));
    EXPECT_GE(live.size(), 2U * 4);
    for (void* const at : live) (void)small->free(at);
    EXPECT_TRUE(small->alloc(2000)) << "there is room again";
}

TEST_F(SecretHeapBasics, budget_of_mappings_is_held) {
    const auto heap = SecretHeap::create({.max_vmas = 7}).value();
    std::vector<void*> live;
    for (int i = 0; i < 3; ++i) live.push_back(heap->alloc(1, {.guarded = true}).value());
    EXPECT_TRUE(refused(heap->alloc(1, {.guarded = true}), ENOMEM, "max_vmas"));
    EXPECT_TRUE(refused(heap->alloc(1), ENOMEM, "max_vmas"));
    EXPECT_EQ(heap->statistics().vmas, 7U);
    (void)heap->free(live[1]);
    EXPECT_TRUE(heap->alloc(1));
}

TEST_F(SecretHeapBasics, statistics_count_what_there_is) {
    const std::size_t mappings = test::count_mappings();
    const SecretStatistics empty = heap_->statistics();
    EXPECT_EQ(empty.backend, SecretBackend::memfd_secret);
    EXPECT_EQ(empty.locked_bytes, 0U);
    EXPECT_EQ(empty.vmas, 1U);
    std::byte* const a = alloc(32);
    std::byte* const b = alloc(3000);
    std::byte* const c = alloc(100, {.guarded = true});
    const SecretStatistics some = heap_->statistics();
    EXPECT_EQ(some.live, 3U);
    EXPECT_EQ(some.live_bytes, 32U + 3000 + 100);
    EXPECT_EQ(some.blocks, 1U);
    EXPECT_EQ(some.locked_bytes, 256 * k_kib + k_page_size);
    EXPECT_EQ(some.vmas, 5U);
    EXPECT_EQ(test::count_mappings("secretmem"), 2U);
    if (!test::k_sanitizer) {
        EXPECT_LE(test::count_mappings(), mappings + 6);
    }
    for (std::byte* const at : {a, b, c}) free(at);
    EXPECT_EQ(heap_->trim(), 256 * k_kib);
    const SecretStatistics none = heap_->statistics();
    EXPECT_EQ(none.live + none.live_bytes + none.locked_bytes + none.blocks, 0U);
    EXPECT_EQ(none.vmas, 1U);
    EXPECT_EQ(test::count_mappings("secretmem"), 0U);
}

TEST_F(SecretHeapBasics, heaps_keep_no_descriptors) {
    const std::size_t before = test::open_descriptors();
    (void)alloc(32);
    (void)alloc(32, {.guarded = true});
    EXPECT_EQ(test::open_descriptors(), before);
}

TEST_F(SecretHeapBasics, trim_keeps_blocks_with_secrets_and_all_that_is_in_them) {
    std::vector<std::byte*> live;
    while (heap_->statistics().blocks < 3) live.push_back(alloc(2000));
    Pattern{5}.fill(live[0], 2000);
    for (std::size_t i = 1; i < live.size(); ++i) free(live[i]);
    EXPECT_EQ(heap_->trim(), 512 * k_kib + k_mib);
    EXPECT_TRUE(Pattern{5}.is_at(live[0], 2000));
    EXPECT_FALSE(test::readable(live.back())) << "freed and given back: it traps";
    EXPECT_EQ(heap_->trim(), 0U);
    EXPECT_NE(alloc(32), nullptr);
    free(live[0]);
}

TEST_F(SecretHeapBasics, pages_of_freed_slabs_serve_other_sizes) {
    std::vector<std::byte*> live;
    for (int i = 0; i < 60 * 85; ++i) live.push_back(alloc(32));
    for (std::byte* const at : live) free(at);
    const std::uint64_t locked = heap_->statistics().locked_bytes;
    live.clear();
    for (int i = 0; i < 55 * 2; ++i) live.push_back(alloc(2000));
    EXPECT_EQ(heap_->statistics().locked_bytes, locked);
    for (std::byte* const at : live) EXPECT_TRUE(is_zero(at, 2000));
    for (std::byte* const at : live) free(at);
}

TEST_F(SecretHeapBasics, secrets_may_be_freed_by_another_thread_and_after_its_owner_has_ended) {
    std::byte* at = nullptr;
    std::thread{[&] { at = alloc(32); }}.join();
    EXPECT_EQ(heap_->statistics().live, 1U);
    std::thread{[&] { free(at); }}.join();
    EXPECT_EQ(heap_->statistics().live, 0U);
    EXPECT_EQ(heap_->trim(), 256 * k_kib) << "the caches of both came back at their ends";
}

TEST_F(SecretHeapBasics, trim_empties_the_caches_of_threads_that_live) {
    std::thread other;
    std::atomic<int> step{0};
    other = std::thread{[&] {
        free(alloc(32));  // keeps slots
        step = 1;
        step.notify_all();
        step.wait(1);
        free(alloc(32));
    }};
    step.wait(0);
    EXPECT_EQ(heap_->trim(), 256 * k_kib);
    step = 2;
    step.notify_all();
    other.join();
    EXPECT_EQ(heap_->trim(), 256 * k_kib);
}

TEST_F(SecretHeapBasics, size_of_what_is_no_secret_is_0) {
    std::byte* const slot = alloc(32);
    std::byte* const run = alloc(5000);
    int local = 0;
    for (const void* const at :
         {static_cast<const void*>(slot + 16), static_cast<const void*>(slot - 16), static_cast<const void*>(run + 16),
          static_cast<const void*>(&local), static_cast<const void*>(nullptr)})
        EXPECT_EQ(heap_->size_of(at), 0U);
    free(slot);
    free(run);
    EXPECT_EQ(heap_->size_of(slot), 0U);
    EXPECT_EQ(heap_->size_of(run), 0U);
}

TEST_F(SecretHeapBasics, many_heaps_come_and_go_and_leave_nothing) {
    const std::size_t mappings = test::count_mappings("secretmem");
    const std::size_t descriptors = test::open_descriptors();
    for (int i = 0; i < 20; ++i) {
        const auto heap = SecretHeap::create({.capacity = k_mib}).value();
        (void)heap->alloc(100);
        (void)heap->alloc(10'000);
        (void)heap->alloc(100'000);
        (void)heap->alloc(1, {.guarded = true});
    }
    EXPECT_EQ(test::count_mappings("secretmem"), mappings);
    EXPECT_EQ(test::open_descriptors(), descriptors);
}

TEST(SecretHeapOnMlock, is_seen_in_the_statistics_and_works_all_the_same) {
    const auto file = os::try_memfd_secret();
    const auto heap = SecretHeap::create({.allow_mlock = true}).value();
    EXPECT_EQ(heap->statistics().backend, file ? SecretBackend::memfd_secret : SecretBackend::mlock);
    EXPECT_EQ(name_of(SecretBackend::mlock), "mlock");
    EXPECT_EQ(name_of(SecretBackend::memfd_secret), "memfd_secret");
}

}  // namespace
}  // namespace harena
