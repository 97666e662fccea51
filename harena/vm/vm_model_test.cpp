// SPDX-License-Identifier: Apache-2.0
// A million operations of all kinds on two threads, beside a model that says who has which page of the space.
#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>

#include "harena/page/unmapped_cache.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::ok;

constexpr std::uint64_t k_pool_pageblocks = 12;
constexpr std::uint64_t k_bytes = 64 * k_mib;
constexpr int k_threads = 2;
constexpr int k_operations = test::k_sanitizer ? 100'000 : 500'000;  // of each thread

/// Who has each page of the space, guards included: no two areas may ever have the same.
class Owners {
public:
    void take(std::uint64_t first, std::uint64_t pages, std::uint32_t owner) {
        for (std::uint64_t page = first; page < first + pages; ++page)
            ASSERT_EQ(owners_[page].exchange(owner), 0U) << "page " << page << " is of two areas";
    }
    void give(std::uint64_t first, std::uint64_t pages, std::uint32_t owner) {
        for (std::uint64_t page = first; page < first + pages; ++page) ASSERT_EQ(owners_[page].exchange(0), owner);
    }
    [[nodiscard]] std::uint64_t taken() const {
        return static_cast<std::uint64_t>(
            std::ranges::count_if(owners_, [](const auto& owner) { return owner.load() != 0; }));
    }

private:
    std::array<std::atomic<std::uint32_t>, k_bytes / k_page_size> owners_{};
};

std::uint64_t word_at(const void* at) { return *static_cast<const volatile std::uint64_t*>(at); }

class Worker {
public:
    Worker(PagePool& pool, VmSpace& space, Owners& owners, std::uint32_t number)
        : pool_{pool}, space_{space}, owners_{owners}, number_{number}, random_{number} {
        for (std::size_t i = 0; i < k_own_pages; ++i) {
            // Every third one has no other address.
            Page* const page =
                (i % 3 == 0 ? pool_.unmapped().unmapped_pages_alloc(Order{}) : pool_.alloc_pages(Order{})).value();
            pages_.push_back(page);
            const std::uint64_t word = stamp(i);
            EXPECT_TRUE(ok(pool_.write(page, 0, std::as_bytes(std::span{&word, 1}))));
        }
    }

    void run(int operations) {
        for (int i = 0; i < operations && !testing::Test::HasFatalFailure(); ++i) step();
        while (!areas_.empty()) free_area(areas_.size() - 1);
        while (!moments_.empty()) end_moment(0);
        for (Page* const page : pages_) EXPECT_TRUE(ok(pool_.free_pages(page, Order{})));
    }
    std::uint64_t refusals = 0;

private:
    static constexpr std::size_t k_own_pages = 192;

    struct Area {
        std::byte* begin;
        std::uint64_t pages;
        std::uint64_t guard;
        VmKind kind;
        std::uint32_t owner;
        VmArea* area = nullptr;
        // Which of our pages is mapped at each page of it; of vmalloc: none, but a word of ours.
        std::vector<std::optional<std::size_t>> mapped{};
    };
    struct Moment {
        std::byte* begin;
        std::vector<std::size_t> mapped;
    };

    std::uint64_t stamp(std::size_t page) const { return std::uint64_t{number_} << 32 | page | 1ULL << 63; }
    std::uint64_t below(std::uint64_t end) { return random_() % end; }
    std::uint64_t page_of(const std::byte* at) const {
        return static_cast<std::uint64_t>(at - space_.base()) / k_page_size;
    }
    std::vector<std::size_t> some_pages(std::uint64_t count) {
        std::vector<std::size_t> some;
        const std::size_t first = below(k_own_pages);
        for (std::uint64_t i = 0; i < count; ++i)
            some.push_back(below(4) == 0 ? below(k_own_pages) : (first + i) % k_own_pages);
        return some;
    }
    std::vector<Page*> pages_of(const std::vector<std::size_t>& numbers) const {
        std::vector<Page*> out;
        for (const std::size_t number : numbers) out.push_back(pages_[number]);
        return out;
    }

    void step() {
        const std::uint64_t what = below(100);
        if (what < 14) return get_area();
        if (what < 24) return allocate();
        if (what < 32) return map();
        if (what < 42) return begin_moment();
        if (what < 52 && !moments_.empty()) return end_moment(below(moments_.size()));
        if (areas_.empty()) return;
        const std::size_t some = below(areas_.size());
        if (what < 64 || areas_.size() > 60) return free_area(some);
        if (what < 76) return map_sparse(some);
        if (what < 84) return unmap_sparse(some);
        if (what < 98) return look(some);
        if (what == 98 && below(20) == 0) {
            EXPECT_TRUE(ok(space_.purge()));
        }
    }

    void add(Area area) {
        area.owner = number_ << 24 | ++areas_made_ % (1U << 24);
        owners_.take(page_of(area.begin), area.pages + area.guard, area.owner);
        areas_.push_back(std::move(area));
    }
    void get_area() {
        const bool sparse = below(4) != 0;
        const bool bare = !sparse && below(3) == 0;
        const std::uint64_t pages = 1 + below(below(40) == 0 ? 1500 : 24);
        const auto area =
            space_.get_vm_area(pages * k_page_size, sparse ? VmKind::sparse : VmKind::map, {.no_guard = bare});
        if (!area) return refused(area.error());
        add({.begin = (*area)->begin(),
             .pages = pages,
             .guard = bare ? 0U : 1U,
             .kind = (*area)->kind(),
             .owner = 0,
             .area = *area,
             .mapped = std::vector<std::optional<std::size_t>>(pages)});
    }
    void allocate() {
        const std::uint64_t pages = 1 + below(below(40) == 0 ? 300 : 8);
        const bool zero = below(2) == 0;
        const auto at = zero ? space_.vzalloc(pages * k_page_size, {.unmapped = below(3) == 0})
                             : space_.vmalloc(pages * k_page_size, {.unmapped = below(3) == 0});
        if (!at) return refused(at.error());
        auto* const begin = static_cast<std::byte*>(*at);
        add({.begin = begin, .pages = pages, .guard = 1, .kind = VmKind::alloc, .owner = 0});
        for (std::uint64_t i = 0; i < pages; ++i) {
            if (zero) {
                ASSERT_EQ(word_at(begin + i * k_page_size), 0U);
            }
            *reinterpret_cast<std::uint64_t*>(begin + i * k_page_size) = areas_.back().owner + i;
        }
    }
    void map() {
        const auto numbers = some_pages(1 + below(20));
        const auto at = space_.vmap(pages_of(numbers));
        if (!at) return refused(at.error());
        add({.begin = static_cast<std::byte*>(*at),
             .pages = numbers.size(),
             .guard = 1,
             .kind = VmKind::map,
             .owner = 0,
             .mapped = {numbers.begin(), numbers.end()}});
    }
    void begin_moment() {
        if (moments_.size() > 30) return;
        auto numbers = some_pages(1 + below(8));
        const auto at = space_.vm_map_ram(pages_of(numbers));
        if (!at) return refused(at.error());
        moments_.push_back({.begin = static_cast<std::byte*>(*at), .mapped = std::move(numbers)});
    }
    void end_moment(std::size_t number) {
        std::swap(moments_[number], moments_.back());
        const Moment moment = std::move(moments_.back());
        moments_.pop_back();
        for (std::size_t i = 0; i < moment.mapped.size(); ++i)
            ASSERT_EQ(word_at(moment.begin + i * k_page_size), stamp(moment.mapped[i]));
        ASSERT_TRUE(ok(space_.vm_unmap_ram(moment.begin, moment.mapped.size())));
    }
    void free_area(std::size_t number) {
        check(areas_[number]);
        std::swap(areas_[number], areas_.back());
        const Area area = std::move(areas_.back());
        areas_.pop_back();
        // Before it is free: after that, it may be another thread's at once.
        owners_.give(page_of(area.begin), area.pages + area.guard, area.owner);
        if (area.kind == VmKind::alloc) {
            ASSERT_TRUE(ok(space_.vfree(area.begin)));
        } else if (area.area == nullptr) {
            ASSERT_TRUE(ok(space_.vunmap(area.begin)));
        } else if (below(2) == 0) {
            ASSERT_TRUE(ok(space_.free_vm_area(area.area)));
        } else {
            const auto info = space_.remove_vm_area(area.begin);
            ASSERT_TRUE(ok(info));
            ASSERT_EQ(info->pages, static_cast<std::uint64_t>(std::ranges::count_if(area.mapped, [](const auto& page) {
                          return page.has_value();
                      })));
        }
    }
    void map_sparse(std::size_t number) {
        Area& area = areas_[number];
        if (area.kind != VmKind::sparse) return;
        const std::uint64_t first = below(area.pages);
        const auto numbers = some_pages(1 + below(std::min<std::uint64_t>(area.pages - first, 24)));
        const auto there = std::span{area.mapped}.subspan(first, numbers.size());
        const bool busy = std::ranges::any_of(there, [](const auto& page) { return page.has_value(); });
        const auto mapped = space_.map_pages(area.area, area.begin + first * k_page_size,
                                             area.begin + (first + numbers.size()) * k_page_size, pages_of(numbers));
        if (busy) {
            ASSERT_FALSE(mapped);
            ASSERT_EQ(mapped.error().code(), EBUSY);
        } else if (mapped) {
            std::ranges::copy(numbers, there.begin());
        } else {
            refused(mapped.error());
        }
    }
    void unmap_sparse(std::size_t number) {
        Area& area = areas_[number];
        if (area.kind != VmKind::sparse) return;
        const std::uint64_t first = below(area.pages);
        const std::uint64_t count = below(area.pages - first + 1);
        const auto gone =
            space_.unmap_pages(area.area, area.begin + first * k_page_size, area.begin + (first + count) * k_page_size);
        if (!gone) return refused(gone.error());  // a hole makes more mappings
        std::ranges::fill(std::span{area.mapped}.subspan(first, count), std::nullopt);
    }
    void refused(const Error& error) {
        ++refusals;
        ASSERT_EQ(error.code(), ENOMEM) << error.message();
    }

    /// Found from everywhere in it, its contents are ours, and its guard is not mapped.
    void look(std::size_t number) {
        const Area& area = areas_[number];
        const auto found = space_.find_vm_area(area.begin + below((area.pages + area.guard) * k_page_size));
        ASSERT_TRUE(found);
        ASSERT_EQ(found->begin, reinterpret_cast<std::uint64_t>(area.begin));
        ASSERT_EQ(found->bytes, area.pages * k_page_size);
        ASSERT_EQ(found->guard_bytes, area.guard * k_page_size);
        ASSERT_EQ(found->kind, area.kind);
        check(area);
        if (below(8) == 0 && area.guard != 0) {
            ASSERT_FALSE(test::readable(area.begin + area.pages * k_page_size));
        }
    }
    void check(const Area& area) {
        const std::uint64_t page = below(area.pages);
        const std::byte* const at = area.begin + page * k_page_size;
        std::uint64_t safely_read = 0;
        ASSERT_TRUE(ok(space_.read(&safely_read, at, sizeof safely_read)));
        if (area.kind == VmKind::alloc) {
            ASSERT_EQ(word_at(at), area.owner + page);
            ASSERT_EQ(safely_read, area.owner + page);
        } else if (area.mapped[page]) {
            ASSERT_EQ(word_at(at), stamp(*area.mapped[page]));
            ASSERT_EQ(safely_read, area.kind == VmKind::sparse ? 0 : stamp(*area.mapped[page]));
        } else {
            if (below(8) == 0) {
                ASSERT_FALSE(test::readable(at));
            }
            ASSERT_EQ(safely_read, 0U);
        }
    }

    PagePool& pool_;
    VmSpace& space_;
    Owners& owners_;
    std::uint32_t number_;
    std::mt19937 random_;
    std::uint32_t areas_made_ = 0;
    std::vector<Page*> pages_;
    std::vector<Area> areas_;
    std::vector<Moment> moments_;
};

void live(std::uint64_t max_vmas, int operations) {
    auto pool =
        PagePool::create({.capacity = PageCount{k_pool_pageblocks * k_pageblock_pages}, .collapse = false, .nodes = 1});
    ASSERT_TRUE(ok(pool));
    auto space = VmSpace::create({.bytes = k_bytes, .pool = pool->get(), .max_vmas = max_vmas});
    ASSERT_TRUE(ok(space));
    const auto owners = std::make_unique<Owners>();
    std::vector<std::unique_ptr<Worker>> workers;
    for (std::uint32_t i = 1; i <= k_threads; ++i)
        workers.push_back(std::make_unique<Worker>(**pool, **space, *owners, i));
    {
        std::vector<std::jthread> threads;
        for (const auto& worker : workers) threads.emplace_back([&] { worker->run(operations); });
    }
    EXPECT_EQ(owners->taken(), 0U);
    ASSERT_TRUE(ok((*space)->purge()));
    const VmStatistics left = (*space)->statistics();
    EXPECT_EQ(left.areas, 0U);
    EXPECT_EQ(left.vmas, 1U);
    EXPECT_EQ(left.free_bytes, k_bytes);
    EXPECT_EQ(left.largest_free_bytes, k_bytes);
    EXPECT_EQ((*space)->vmallocinfo().value(), "");
    EXPECT_EQ((*pool)->statistics().allocated, PageCount{0});
    if (max_vmas < 1000) {
        EXPECT_GT(workers[0]->refusals, 0U);
    }
}

TEST(VmModel, areas_are_whose_they_are_in_a_million_operations_on_two_threads) { live(32'768, k_operations); }

TEST(VmModel, areas_are_whose_they_are_where_mappings_are_scarce) { live(700, k_operations / 10); }

}  // namespace
}  // namespace harena
