// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/arena_ptr.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::k_free_address;
using test::make_arena;
using test::number;
using test::refused;

struct Node {
    ArenaPtr<Node> next;  // of a type that is not complete yet
    std::uint32_t value = 0;
};
static_assert(k_arena_type<Node> && sizeof(Node) == 8);

struct alignas(64) Wide {
    std::array<std::byte, 192> bytes;
};

static_assert(k_arena_type<std::atomic<std::uint64_t>>);
static_assert(!k_arena_type<std::string>);

constexpr std::uint64_t k_4_gib = 4 * k_gib;

/// Arenas at all places of a window: its begin, inside, its end, the whole.
class ArenaPtrPlaces : public ::testing::TestWithParam<std::pair<std::uint64_t, std::uint64_t>> {
protected:
    [[nodiscard]] static std::shared_ptr<ProcessArena> arena() {
        const auto [offset, bytes] = GetParam();
        return make_arena({.pages = pages_for(bytes), .user_vm_start = UserAddress{k_free_address + offset}});
    }
};
INSTANTIATE_TEST_SUITE_P(Window, ArenaPtrPlaces,
                         ::testing::Values(std::pair{std::uint64_t{0}, k_page_size},
                                           std::pair{5 * k_page_size, 3 * k_page_size},
                                           std::pair{k_4_gib - 2 * k_page_size, 2 * k_page_size},
                                           std::pair{k_page_size, k_4_gib - k_page_size},
                                           std::pair{std::uint64_t{0}, k_4_gib}));

/// What `get` should return, in numbers that cannot wrap.
template <typename T>
T* expected(const Arena& arena, std::uint32_t bits, std::uint64_t count = 1) {
    const std::uint64_t begin = arena.user_vm_start().value() % k_4_gib;
    const bool inside = bits >= begin && bits + count * sizeof(T) <= begin + arena.size();
    if (bits == 0 || !inside || bits % alignof(T) != 0) return nullptr;
    return reinterpret_cast<T*>(k_free_address + bits);
}

TEST_P(ArenaPtrPlaces, any_value_leads_to_a_whole_aligned_object_in_the_arena_or_to_null) {
    const auto arena = ArenaPtrPlaces::arena();
    const auto begin = static_cast<std::uint32_t>(number(arena->data()));
    const auto end = static_cast<std::uint32_t>(begin + arena->size());  // 0 at the window's end
    std::mt19937_64 random{1};
    const auto check = [&](std::uint32_t bits) {
        ASSERT_EQ(ArenaPtr<Node>::of_bits(bits).get(*arena), expected<Node>(*arena, bits)) << bits;
        ASSERT_EQ(ArenaPtr<Wide>::of_bits(bits).get(*arena), expected<Wide>(*arena, bits)) << bits;
        ASSERT_EQ(ArenaPtr<char>::of_bits(bits).get(*arena), expected<char>(*arena, bits)) << bits;
        const std::uint64_t count = 1 + random() % 1000;
        ASSERT_EQ(ArenaPtr<Node>::of_bits(bits).get(*arena, count), expected<Node>(*arena, bits, count)) << bits;
    };
    for (const std::uint32_t edge : {std::uint32_t{0}, begin, end, std::uint32_t{0x8000'0000}})
        for (std::uint32_t distance = 0; distance <= 300; ++distance) {
            check(edge + distance);
            check(edge - distance);
        }
    for (int i = 0; i < 100'000; ++i) check(static_cast<std::uint32_t>(random()));
}

TEST_P(ArenaPtrPlaces, an_object_is_found_again_by_the_link_to_it) {
    const auto arena = ArenaPtrPlaces::arena();
    auto* const last = reinterpret_cast<Node*>(arena->data() + arena->size()) - 1;
    const auto link = ArenaPtr<Node>::to(*arena, last);
    ASSERT_TRUE(link) << link.error().message();
    EXPECT_EQ(link->bits(), static_cast<std::uint32_t>(number(last)));
    EXPECT_EQ(link->get(*arena), last);
    EXPECT_TRUE(*link);
    auto* const first = reinterpret_cast<Node*>(arena->data());
    const auto to_first = ArenaPtr<Node>::to(*arena, first);
    if (static_cast<std::uint32_t>(number(first)) == 0) {
        EXPECT_TRUE(refused(to_first, EINVAL, "null"));
    } else {
        EXPECT_EQ(to_first->get(*arena), first);
    }
}

TEST(ArenaPtr, null_is_null_on_both_sides) {
    const auto arena = make_arena(4);
    const ArenaPtr<Node> null;
    EXPECT_EQ(null.bits(), 0U);
    EXPECT_FALSE(null);
    EXPECT_EQ(null.get(*arena), nullptr);
    EXPECT_EQ(*ArenaPtr<Node>::to(*arena, nullptr), null);
}

TEST(ArenaPtr, links_to_what_is_not_in_the_arena_cannot_be_made) {
    const auto arena = make_arena(4);
    const Node local;
    std::byte* const end = arena->data() + arena->size();
    EXPECT_TRUE(refused(ArenaPtr<Node>::to(*arena, &local), ERANGE, "arena"));
    EXPECT_TRUE(refused(ArenaPtr<Node>::to(*arena, reinterpret_cast<Node*>(end - 4)), ERANGE, "arena"));
    EXPECT_TRUE(refused(ArenaPtr<Node>::to(*arena, reinterpret_cast<Node*>(arena->data() - 4)), ERANGE, "arena"));
    EXPECT_TRUE(refused(ArenaPtr<Node>::to(*arena, reinterpret_cast<Node*>(end - 9)), EINVAL, "aligned"));
}

TEST(ArenaPtr, more_objects_than_any_arena_has_are_not_there) {
    const auto arena = make_arena(4);
    const auto link = ArenaPtr<Node>::to(*arena, reinterpret_cast<Node*>(arena->data())).value();
    EXPECT_NE(link.get(*arena, 4 * k_page_size / sizeof(Node)), nullptr);
    EXPECT_EQ(link.get(*arena, 4 * k_page_size / sizeof(Node) + 1), nullptr);
    EXPECT_EQ(link.get(*arena, UINT64_MAX), nullptr);
    EXPECT_EQ(link.get(*arena, UINT64_MAX / sizeof(Node) + 2), nullptr) << "as many bytes as there are, modulo 2^64";
}

// Somebody else writes to the link while it is followed: it is read once.
TEST(ArenaPtr, a_link_that_changes_while_it_is_followed_leads_nowhere_else) {
    const auto arena = make_arena(4);
    auto* const link = new (arena->data()) ArenaPtr<Wide>{};
    const auto begin = static_cast<std::uint32_t>(number(arena->data()));
    std::atomic<bool> done{false};
    std::thread other{[&] {
        for (std::uint32_t step = 0; !done; ++step)
            link->store(ArenaPtr<Wide>::of_bits(step % 2 == 0 ? begin + 64 : 0x10 + step * 64));
    }};
    for (int i = 0; i < 200'000; ++i) {
        Wide* const object = link->get(*arena);
        if (object == nullptr) continue;
        ASSERT_TRUE(arena->contains(object, sizeof *object));
        ASSERT_EQ(number(object) % alignof(Wide), 0U);
    }
    done = true;
    other.join();
}

}  // namespace
}  // namespace harena
