// SPDX-License-Identifier: Apache-2.0
//
// ArenaTuning::deterministic: the same calls, the same addresses, each at the begin of a smallest sufficient range.
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

constexpr std::uint64_t k_pages = 2048;
constexpr std::uint64_t k_none = ~0ULL;

std::shared_ptr<ProcessArena> deterministic_arena(HugePages huge_pages = HugePages::automatic) {
    return test::make_tuned_arena(
        {.pages = PageCount{k_pages},
         .tuning = {.recycle = PageCount{512}, .huge_pages = huge_pages, .deterministic = true}});
}

std::uint64_t page_of(const ProcessArena& arena, const void* address) {
    return (test::number(address) - test::number(arena.data())) / k_page_size;
}

/// Which pages are free, as a naive reference has it.
class Reference {
public:
    /// The length of the smallest free range of at least `count` pages; nullopt without one.
    [[nodiscard]] std::optional<std::uint64_t> smallest(std::uint64_t count) const {
        std::optional<std::uint64_t> best;
        for_each_range([&](std::uint64_t, std::uint64_t length) {
            if (length >= count && (!best || length < *best)) best = length;
        });
        return best;
    }
    /// The length of the free range that begins at `page`; 0 if none does.
    [[nodiscard]] std::uint64_t beginning_at(std::uint64_t page) const {
        std::uint64_t found = 0;
        for_each_range([&](std::uint64_t begin, std::uint64_t length) {
            if (begin == page) found = length;
        });
        return found;
    }
    void set(std::uint64_t page, std::uint64_t count, bool free) {
        for (std::uint64_t i = page; i < page + count; ++i) free_[i] = free;
    }

private:
    template <typename Visit>
    void for_each_range(Visit&& visit) const {
        for (std::uint64_t begin = 0; begin < k_pages;) {
            std::uint64_t end = begin;
            while (end < k_pages && free_[end]) ++end;
            if (end > begin) visit(begin, end - begin);
            begin = end + 1;
        }
    }
    std::vector<bool> free_ = std::vector<bool>(k_pages, true);
};

/// Allocates and frees by chance; tells `visit` of each allocation (page, count), before and after. The addresses.
template <typename Before, typename After>
std::vector<std::uint64_t> play(ProcessArena& arena, Before&& before, After&& after) {
    std::mt19937_64 random{42};
    std::vector<std::pair<std::uint64_t, std::uint64_t>> mine;
    std::vector<std::uint64_t> addresses;
    for (int round = 0; round < 3'000; ++round) {
        if (!mine.empty() && random() % 100 < 48) {
            std::swap(mine[random() % mine.size()], mine.back());
            const auto [page, count] = mine.back();
            mine.pop_back();
            EXPECT_TRUE(test::ok(arena.free_pages(test::page_at(arena, page), PageCount{count})));
            after(page, count, true);
            continue;
        }
        const std::uint64_t count = random() % 3 == 0 ? 1 + random() % 40 : 1;
        before(count);
        const auto pages = arena.alloc_pages(PageCount{count});
        const std::uint64_t page = pages ? page_of(arena, *pages) : k_none;
        addresses.push_back(page);
        if (!pages) continue;
        after(page, count, false);
        mine.emplace_back(page, count);
    }
    return addresses;
}

TEST(ArenaDeterministic, two_arenas_give_the_same_addresses_for_the_same_calls) {
    for (const HugePages huge : {HugePages::never, HugePages::automatic, HugePages::all}) {
        const auto one = deterministic_arena(huge);
        const auto other = deterministic_arena(huge);
        ASSERT_TRUE(one != nullptr && other != nullptr);
        const auto nothing = [](auto...) {};
        EXPECT_EQ(play(*one, nothing, nothing), play(*other, nothing, nothing));
    }
}

TEST(ArenaDeterministic, each_allocation_is_at_the_begin_of_a_smallest_sufficient_range) {
    const auto arena = deterministic_arena();
    ASSERT_NE(arena, nullptr);
    Reference reference;
    std::optional<std::uint64_t> wanted;
    play(
        *arena, [&](std::uint64_t count) { wanted = reference.smallest(count); },
        [&](std::uint64_t page, std::uint64_t count, bool free) {
            if (!free) {
                ASSERT_TRUE(wanted) << "nothing was large enough";
                ASSERT_EQ(reference.beginning_at(page), *wanted) << page << " for " << count;
            }
            reference.set(page, count, free);
        });
}

}  // namespace
}  // namespace harena
