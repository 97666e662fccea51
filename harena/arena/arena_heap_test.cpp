// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/arena_heap.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::k_free_address;
using test::make_arena;
using test::number;
using test::page_at;
using test::refused;
using test::usage;

std::unique_ptr<ArenaHeap> make_heap(std::shared_ptr<Arena> arena) {
    auto heap = ArenaHeap::create(std::move(arena));
    if (heap) return std::move(*heap);
    ADD_FAILURE() << heap.error().message();
    return nullptr;
}

HeapStatistics statistics(const ArenaHeap& heap) { return heap.statistics().value(); }

/// What objects a heap should have. Each is filled with bytes of its own.
class Shadow {
public:
    Shadow(ArenaHeap& heap, unsigned seed, bool contents = true) : heap_{heap}, contents_{contents}, random_{seed} {}

    /// 1 byte to 6 pages, mostly small.
    std::size_t some_size() {
        const std::size_t most =
            std::array<std::size_t, 8>{16, 64, 128, 300, 1024, 2048, 5000, 6 * k_page_size}[random_() % 8];
        return 1 + random_() % most;
    }

    /// False if there is no memory.
    bool alloc(std::size_t bytes, std::size_t alignment) {
        const auto allocated = heap_.alloc(bytes, alignment);
        if (!allocated) {
            EXPECT_EQ(allocated.error().code(), ENOMEM) << allocated.error().message();
            return false;
        }
        auto* const at = static_cast<std::byte*>(*allocated);
        EXPECT_EQ(number(at) % alignment, 0U);
        EXPECT_TRUE(heap_.arena().contains(at, bytes));
        EXPECT_NE(static_cast<std::uint32_t>(number(at)), 0U);
        const auto after = objects_.lower_bound(at);
        EXPECT_TRUE(after == objects_.end() || at + bytes <= after->first) << "overlaps the next";
        EXPECT_TRUE(after == objects_.begin() || std::prev(after)->first + std::prev(after)->second.bytes <= at)
            << "overlaps the one before";
        if (contents_) {
            EXPECT_TRUE(bytes == 1 ? *at == std::byte{0} : test::is_zero(at, bytes));
        }
        const auto fill = static_cast<unsigned char>(random_());
        std::memset(at, fill, bytes);
        objects_[at] = {bytes, fill};
        return true;
    }
    bool alloc_some() { return alloc(some_size(), std::size_t{1} << (random_() % (random_() % 8 == 0 ? 13 : 5))); }

    void free_some() {
        if (objects_.empty()) return;
        free_at(std::next(objects_.begin(), static_cast<std::ptrdiff_t>(random_() % objects_.size()))->first);
    }
    void free_at(std::byte* at) {
        const auto [bytes, fill] = objects_.at(at);
        if (contents_) {
            EXPECT_TRUE(std::all_of(at, at + bytes, [&](std::byte byte) { return byte == std::byte{fill}; }));
        }
        const auto freed = heap_.free(at);
        EXPECT_TRUE(freed) << freed.error().message();
        objects_.erase(at);
    }
    void free_all() {
        while (!objects_.empty()) free_at(objects_.begin()->first);
    }

    [[nodiscard]] std::size_t size() const { return objects_.size(); }
    [[nodiscard]] std::byte* any() { return objects_.begin()->first; }
    std::mt19937_64& random() { return random_; }

private:
    struct Object {
        std::size_t bytes;
        unsigned char fill;
    };

    ArenaHeap& heap_;
    bool contents_;
    std::mt19937_64 random_;
    std::map<std::byte*, Object> objects_;
};

class ArenaHeapModel : public ::testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Pages, ArenaHeapModel, ::testing::Values(1, 7, 100, 3000));

TEST_P(ArenaHeapModel, objects_are_zeroed_aligned_apart_and_keep_what_is_in_them) {
    const auto arena = make_arena(GetParam());
    const auto heap = make_heap(arena);
    Shadow shadow{*heap, 1};
    for (int round = 0; round < 4; ++round) {
        // Ever fuller, then ever emptier.
        for (int step = 0; step < 2000; ++step)
            shadow.random()() % 3 != 0 ? (void)shadow.alloc_some() : shadow.free_some();
        EXPECT_EQ(statistics(*heap).objects, shadow.size());
        for (int step = 0; step < 2000; ++step)
            shadow.random()() % 3 == 0 ? (void)shadow.alloc_some() : shadow.free_some();
        EXPECT_EQ(statistics(*heap).objects, shadow.size());
        if (round == 1) {
            EXPECT_TRUE(heap->shrink());
        }
    }
    shadow.free_all();
    EXPECT_EQ(statistics(*heap).objects, 0U);
    EXPECT_EQ(statistics(*heap).bytes, 0U);
    EXPECT_EQ(statistics(*heap).refused_frees, 0U);
    EXPECT_EQ(arena->statistics()->used, statistics(*heap).pages);
    EXPECT_TRUE(heap->shrink());
    EXPECT_EQ(statistics(*heap).pages, PageCount{0});
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST(ArenaHeap, gives_back_all_pages_when_it_goes_with_what_is_left_in_them) {
    const auto arena = make_arena(100);
    {
        const auto heap = make_heap(arena);
        for (std::size_t bytes = 1; bytes < 20'000; bytes = bytes * 3 / 2 + 1) ASSERT_TRUE(heap->alloc(bytes));
        EXPECT_EQ(arena->statistics()->used, statistics(*heap).pages);
        EXPECT_NE(statistics(*heap).pages, PageCount{0});
    }
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST(ArenaHeap, one_empty_slab_of_a_size_is_kept_and_no_more) {
    const auto arena = make_arena(100);
    const auto heap = make_heap(arena);
    std::vector<void*> objects;
    for (int i = 0; i < 40; ++i) objects.push_back(heap->alloc(1024).value());
    EXPECT_EQ(statistics(*heap).pages, PageCount{1 + 3 * 4}) << "the first slab is a page, the others are four";
    EXPECT_EQ(statistics(*heap).bytes, 40U * 1024);
    for (void* const object : objects) EXPECT_TRUE(heap->free(object));
    EXPECT_GE(statistics(*heap).pages, PageCount{1});
    EXPECT_LE(statistics(*heap).pages, PageCount{4});
    EXPECT_TRUE(heap->shrink());
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST(ArenaHeap, large_objects_have_whole_pages_and_go_back_at_once) {
    const auto arena = make_arena(100);
    const auto heap = make_heap(arena);
    auto* const object = static_cast<std::byte*>(heap->alloc(k_page_size + 1).value());
    EXPECT_EQ(number(object) % k_page_size, 0U);
    EXPECT_EQ(usage(*arena), "2 0");
    EXPECT_TRUE(refused(heap->free(object + k_page_size), EINVAL, "no object"));
    EXPECT_TRUE(heap->free(object));
    EXPECT_EQ(usage(*arena), "0 0");
    EXPECT_TRUE(heap->alloc(100 * k_page_size));
    EXPECT_EQ(usage(*arena), "100 0");
    EXPECT_TRUE(refused(heap->alloc(1), ENOMEM, "pages"));
}

TEST(ArenaHeap, what_other_sizes_keep_is_given_back_before_memory_is_said_to_be_out) {
    const auto arena = make_arena(20);
    const auto heap = make_heap(arena);
    for (const std::size_t bytes : {16U, 32U, 48U, 64U, 1024U}) EXPECT_TRUE(heap->free(heap->alloc(bytes).value()));
    EXPECT_EQ(usage(*arena), "5 0");
    EXPECT_TRUE(heap->alloc(20 * k_page_size));
}

TEST(ArenaHeap, bad_requests_are_refused) {
    const auto arena = make_arena(4);
    const auto heap = make_heap(arena);
    EXPECT_TRUE(refused(heap->alloc(0), EINVAL, "0 bytes"));
    for (const std::size_t alignment : {std::size_t{0}, std::size_t{3}, std::size_t{24}, std::size_t{8192}, SIZE_MAX})
        EXPECT_TRUE(refused(heap->alloc(1, alignment), EINVAL, "alignment"));
    for (const std::size_t bytes : {std::size_t{4 * k_page_size + 1}, SIZE_MAX - k_page_size, SIZE_MAX})
        EXPECT_TRUE(refused(heap->alloc(bytes), ENOMEM, "bytes"));
    EXPECT_TRUE(refused(ArenaHeap::create(nullptr), EINVAL, "arena"));
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST(ArenaHeap, what_is_no_object_is_not_freed) {
    const auto arena = make_arena(20);
    const auto heap = make_heap(arena);
    const auto other = make_heap(arena);
    auto* const object = static_cast<std::byte*>(heap->alloc(100).value());
    void* const of_the_other = other->alloc(100).value();
    void* const page = arena->alloc_pages(PageCount{1}).value();
    int local = 0;
    std::uint64_t refusals = 0;
    for (void* const wrong :
         {static_cast<void*>(&local), static_cast<void*>(object + 1), static_cast<void*>(object + 112),
          static_cast<void*>(object - 112), static_cast<void*>(object + 16), of_the_other, page,
          static_cast<void*>(arena->data() - 1), static_cast<void*>(arena->data() + arena->size()),
          static_cast<void*>(reinterpret_cast<std::byte*>(~std::uintptr_t{0}))}) {
        EXPECT_TRUE(refused(heap->free(wrong), EINVAL, "no object"));
        EXPECT_EQ(statistics(*heap).refused_frees, ++refusals);
    }
    EXPECT_EQ(statistics(*heap).objects, 1U);
    EXPECT_TRUE(heap->free(object));
    EXPECT_TRUE(refused(heap->free(object), EINVAL, "freed before"));
    EXPECT_TRUE(heap->shrink());
    EXPECT_TRUE(refused(heap->free(object), EINVAL, "freed before")) << "nor when its slab is gone";
    EXPECT_TRUE(heap->free(nullptr));
    EXPECT_TRUE(other->free(of_the_other));
}

struct Point {
    explicit Point(long x_value, long y_value = 7) noexcept : x{x_value}, y{y_value} {}
    long x;
    long y;
};
struct alignas(256) Line {
    std::array<std::uint64_t, 3> words;
    std::atomic<std::uint32_t> readers;
};

TEST(ArenaHeap, objects_are_made_and_destroyed_by_type) {
    const auto arena = make_arena(20);
    const auto heap = make_heap(arena);
    Point* const point = heap->make<Point>(3).value();
    EXPECT_EQ(point->x, 3);
    EXPECT_EQ(point->y, 7);
    Line* const line = heap->make<Line>().value();
    EXPECT_EQ(number(line) % 256, 0U);
    EXPECT_EQ(line->words[2], 0U);
    line->readers.fetch_add(1);
    EXPECT_EQ(statistics(*heap).objects, 2U);
    EXPECT_TRUE(heap->destroy(line));
    const Point* const read_only = point;
    EXPECT_TRUE(heap->destroy(read_only));
    EXPECT_TRUE(heap->destroy(static_cast<Point*>(nullptr)));
    EXPECT_TRUE(refused(heap->destroy(point), EINVAL, "freed before"));
    EXPECT_EQ(statistics(*heap).objects, 0U);
}

TEST(ArenaHeap, an_arena_has_one_of_its_own) {
    auto arena = make_arena(100);
    Point* const point = arena->make<Point>(3, 4).value();
    EXPECT_TRUE(arena->contains(point, sizeof *point));
    EXPECT_EQ(point->y, 4);
    EXPECT_EQ(arena->heap().value(), arena->heap().value());
    EXPECT_EQ(statistics(*arena->heap().value()).objects, 1U);
    EXPECT_TRUE(arena->destroy(point));
    EXPECT_TRUE(refused(arena->destroy(point), EINVAL, "freed before"));
    ASSERT_TRUE(arena->make<Point>(5, 6));
    arena.reset();  // with an object in it
}

struct Node {
    ArenaPtr<Node> next;
    std::uint32_t value = 0;
};

TEST(ArenaHeap, a_list_is_walked_by_its_links) {
    const auto arena = make_arena(100);
    const auto heap = make_heap(arena);
    ArenaPtr<Node> head;
    for (std::uint32_t value = 0; value < 1000; ++value)
        head = ArenaPtr<Node>::to(*arena, heap->make<Node>(head, value).value()).value();
    std::uint32_t value = 1000;
    for (const Node* node = head.get(*arena); node != nullptr; node = node->next.get(*arena))
        ASSERT_EQ(node->value, --value);
    EXPECT_EQ(value, 0U);
}

// A 4 GiB-aligned arena: the address of its first page is null for programs.
TEST(ArenaHeap, nothing_is_ever_at_the_address_that_programs_take_for_null) {
    for (const std::uint64_t pages : {1U, 2U, 3U, 9U}) {
        const auto arena = make_arena({.pages = PageCount{pages}, .user_vm_start = UserAddress{k_free_address}});
        {
            const auto heap = make_heap(arena);
            Shadow shadow{*heap, 1};
            EXPECT_FALSE(heap->alloc(pages * k_page_size));
            std::uint64_t objects = 0;
            while (shadow.alloc(k_page_size, k_page_size)) ++objects;
            EXPECT_EQ(objects, pages - 1);
            shadow.free_all();
        }
        EXPECT_EQ(usage(*arena), "0 0");
    }
}

TEST(ArenaHeap, two_threads_allocate_and_free_each_others_objects) {
    const auto arena = make_arena(2000);
    const auto heap = make_heap(arena);
    std::mutex mutex;
    std::vector<std::pair<unsigned char*, std::size_t>> passed;  // filled with the low byte of their size
    const auto work = [&](unsigned seed) {
        std::mt19937_64 random{seed};
        for (int step = 0; step < 20'000; ++step) {
            const std::size_t bytes = 1 + random() % (random() % 16 == 0 ? 10'000 : 400);
            auto* const object = static_cast<unsigned char*>(heap->alloc(bytes).value());
            EXPECT_EQ(object[0] | object[bytes - 1], 0);
            std::memset(object, static_cast<unsigned char>(bytes), bytes);
            std::pair<unsigned char*, std::size_t> taken{object, bytes};
            {
                const std::lock_guard lock{mutex};
                passed.push_back(taken);
                if (passed.size() > 100 || random() % 2 == 0) {
                    std::swap(passed[random() % passed.size()], passed.back());
                    taken = passed.back();
                    passed.pop_back();
                } else {
                    taken = {};
                }
            }
            if (taken.first == nullptr) continue;
            const auto is_its_own = [&](unsigned char byte) {
                return byte == static_cast<unsigned char>(taken.second);
            };
            EXPECT_TRUE(std::all_of(taken.first, taken.first + taken.second, is_its_own));
            EXPECT_TRUE(heap->free(taken.first));
        }
    };
    std::thread other{work, 2};
    work(1);
    other.join();
    EXPECT_EQ(statistics(*heap).objects, passed.size());
    for (const auto& [object, bytes] : passed) EXPECT_TRUE(heap->free(object));
    EXPECT_TRUE(heap->shrink());
    EXPECT_EQ(usage(*arena), "0 0");
}

// Two threads free the same objects: each is freed once.
TEST(ArenaHeap, of_two_frees_at_once_one_is_refused) {
    const auto arena = make_arena(400);
    const auto heap = make_heap(arena);
    std::vector<void*> objects;
    for (int i = 0; i < 5000; ++i) objects.push_back(heap->alloc(i % 50 == 0 ? 5000 : 64).value());
    std::atomic<std::uint64_t> freed{0};
    const auto work = [&] {
        for (void* const object : objects) freed += heap->free(object) ? 1U : 0U;
    };
    std::thread other{work};
    work();
    other.join();
    EXPECT_EQ(freed, objects.size());
    EXPECT_EQ(statistics(*heap).refused_frees, objects.size());
    EXPECT_EQ(statistics(*heap).objects, 0U);
}

TEST(ArenaHeap, whatever_is_written_to_the_arena_the_heap_stays_whole) {
    const auto arena = make_arena(64);
    const auto heap = make_heap(arena);
    Shadow shadow{*heap, 3, false};
    std::mt19937_64 random{4};
    const auto fill = [&] {
        for (std::byte* at = arena->data(); at < arena->data() + arena->size(); at += 8) {
            const std::uint64_t word = random() % 4 == 0 ? number(arena->data()) + random() % arena->size() : random();
            std::memcpy(at, &word, sizeof word);
        }
    };
    for (int round = 0; round < 20; ++round) {
        // Until the arena is full: pages that nobody has would be used by the touch.
        while (shadow.alloc(1 + random() % 3000, 16)) {
        }
        fill();
        EXPECT_EQ(statistics(*heap).objects, shadow.size());
        EXPECT_GT(shadow.size(), 64U);
        for (int step = 0; step < 60; ++step) shadow.free_some();
    }
    shadow.free_all();
    EXPECT_EQ(statistics(*heap).refused_frees, 0U);
}

// A program may free any pages of its arena.
TEST(ArenaHeap, pages_that_are_freed_behind_its_back_are_not_handed_out_twice) {
    const auto arena = make_arena(64);
    const auto heap = make_heap(arena);
    Shadow shadow{*heap, 5, false};
    std::mt19937_64 random{6};
    for (int round = 0; round < 2000; ++round) {
        (void)shadow.alloc_some();
        if (random() % 3 == 0) shadow.free_some();
        if (random() % 3 == 0) (void)arena->free_pages(page_at(*arena, random() % 64), PageCount{1});
        if (random() % 50 == 0) (void)arena->free_pages(arena->data(), PageCount{1 + random() % 64});
        if (random() % 100 == 0) shadow.free_all();
    }
    shadow.free_all();
    EXPECT_EQ(statistics(*heap).objects, 0U);
    EXPECT_EQ(statistics(*heap).refused_frees, 0U);
    EXPECT_TRUE(heap->shrink());
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST(ArenaHeap, memory_is_out_where_pages_are_freed_behind_its_back_all_the_time) {
    // Hands out its first page, again and again.
    class Repeating final : public Arena {
    public:
        explicit Repeating(std::shared_ptr<ProcessArena> arena)
            : Arena{{.name = "repeating", .pages = arena->pages()}}, arena_{std::move(arena)} {
            set_data(arena_->data());
        }
        Result<void*> alloc_pages(PageCount, const AllocOptions&) override {
            ++calls;
            return data();
        }
        Result<void> free_pages(void*, PageCount) override { return {}; }
        Result<void> reserve_pages(void*, PageCount) override { return {}; }
        Result<void> populate(const void*, std::uint64_t) override { return {}; }
        Result<ArenaStatistics> statistics() override { return arena_->statistics(); }
        Result<void> promote(void* address, PageCount count) override { return arena_->promote(address, count); }
        Result<std::vector<ArenaRange>> snapshot() override { return arena_->snapshot(); }
        int calls = 0;

    private:
        std::shared_ptr<ProcessArena> arena_;
    };
    const auto arena = std::make_shared<Repeating>(make_arena(4));
    const auto heap = make_heap(arena);
    EXPECT_TRUE(heap->alloc(k_page_size));
    EXPECT_TRUE(refused(heap->alloc(k_page_size), ENOMEM, "behind its back"));
    EXPECT_LT(arena->calls, 100);
}

/// An arena of which the kernel does not take pages back while `stuck`.
class Stuck final : public Arena {
public:
    explicit Stuck(std::shared_ptr<ProcessArena> arena)
        : Arena{{.name = "stuck", .pages = arena->pages()}}, arena_{std::move(arena)} {
        set_data(arena_->data());
    }
    Result<void*> alloc_pages(PageCount count, const AllocOptions& options) override {
        return arena_->alloc_pages(count, options);
    }
    Result<void> free_pages(void* address, PageCount count) override {
        if (stuck) return fail(ENOSPC, "stuck");
        return arena_->free_pages(address, count);
    }
    Result<void> reserve_pages(void* address, PageCount count) override {
        return arena_->reserve_pages(address, count);
    }
    Result<void> populate(const void* address, std::uint64_t bytes) override {
        return arena_->populate(address, bytes);
    }
    Result<ArenaStatistics> statistics() override { return arena_->statistics(); }
    Result<void> promote(void* address, PageCount count) override { return arena_->promote(address, count); }
    Result<std::vector<ArenaRange>> snapshot() override { return arena_->snapshot(); }
    bool stuck = false;

private:
    std::shared_ptr<ProcessArena> arena_;
};

TEST(ArenaHeap, what_the_kernel_does_not_take_back_stays_the_heaps) {
    const auto inner = make_arena(20);
    const auto arena = std::make_shared<Stuck>(inner);
    const auto heap = make_heap(arena);
    void* const large = heap->alloc(3 * k_page_size).value();
    std::vector<void*> small;
    for (int i = 0; i < 12; ++i) small.push_back(heap->alloc(2048).value());
    const PageCount pages = statistics(*heap).pages;
    arena->stuck = true;
    EXPECT_TRUE(refused(heap->free(large), ENOSPC, "stuck"));
    EXPECT_EQ(statistics(*heap).objects, 13U) << "it is still allocated";
    for (void* const object : small) EXPECT_TRUE(heap->free(object));
    EXPECT_TRUE(refused(heap->shrink(), ENOSPC, "stuck"));
    EXPECT_EQ(statistics(*heap).pages, pages);
    EXPECT_EQ(statistics(*heap).objects, 1U);
    for (void*& object : small) object = heap->alloc(2048).value();
    EXPECT_EQ(statistics(*heap).pages, pages) << "no more pages than before";
    arena->stuck = false;
    for (void* const object : small) EXPECT_TRUE(heap->free(object));
    EXPECT_TRUE(heap->free(large));
    EXPECT_TRUE(refused(heap->free(large), EINVAL, "freed before"));
    EXPECT_TRUE(heap->shrink());
    EXPECT_EQ(usage(*inner), "0 0");
}

TEST(ArenaHeap, a_child_after_fork_is_told_so) {
    const auto arena = make_arena(20);
    auto heap = make_heap(arena);
    void* const object = heap->alloc(10).value();
    EXPECT_TRUE(test::holds_in_child([&] {
        EXPECT_TRUE(refused(heap->alloc(10), EOWNERDEAD, "heap"));
        EXPECT_TRUE(refused(heap->free(object), EOWNERDEAD, "heap"));
        EXPECT_TRUE(refused(heap->free(nullptr), EOWNERDEAD, "heap"));
        EXPECT_TRUE(refused(heap->shrink(), EOWNERDEAD, "heap"));
        EXPECT_TRUE(refused(heap->statistics(), EOWNERDEAD, "heap"));
        heap.reset();
    }));
    EXPECT_TRUE(heap->free(object));
}

}  // namespace
}  // namespace harena
