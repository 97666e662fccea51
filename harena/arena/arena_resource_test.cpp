// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/arena_resource.hpp"

#include <map>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/assert.hpp"

namespace harena {
namespace {

using test::make_arena;
using test::usage;

class ArenaResourceTest : public ::testing::Test {
protected:
    void TearDown() override {
        EXPECT_EQ(heap_->statistics()->objects, 0U) << "everything was freed";
        EXPECT_EQ(heap_->statistics()->refused_frees, 0U);
        EXPECT_TRUE(heap_->shrink());
        EXPECT_EQ(usage(*arena_), "0 0");
    }

    std::shared_ptr<ProcessArena> arena_ = make_arena(2000);
    std::unique_ptr<ArenaHeap> heap_ = ArenaHeap::create(arena_).value();
    ArenaResource resource_{*heap_};
};

TEST_F(ArenaResourceTest, a_vector_grows_in_the_arena) {
    std::pmr::vector<std::uint64_t> numbers{&resource_};
    for (std::uint64_t i = 0; i < 100'000; ++i) numbers.push_back(i * i);
    EXPECT_TRUE(arena_->contains(numbers.data(), numbers.size() * 8));
    for (std::uint64_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], i * i);
    std::pmr::vector<std::uint64_t> copy{numbers, &resource_};
    EXPECT_EQ(copy, numbers);
}

TEST_F(ArenaResourceTest, maps_of_strings_live_in_the_arena) {
    std::pmr::map<int, std::pmr::string> ordered{&resource_};
    std::pmr::unordered_map<std::pmr::string, int> hashed{&resource_};
    for (int i = 0; i < 2000; ++i) {
        const std::string name = "a name that is too long to be kept in place " + std::to_string(i);
        ordered[i] = name;
        hashed[std::pmr::string{name, &resource_}] = i;
        if (i % 3 == 0) ordered.erase(i / 2);
    }
    for (const auto& [key, name] : ordered) {
        ASSERT_EQ(hashed.at(name), key);
        ASSERT_TRUE(arena_->contains(&name));
        ASSERT_TRUE(arena_->contains(name.data(), name.size() + 1));
    }
}

TEST_F(ArenaResourceTest, a_container_without_memory_throws_and_keeps_what_it_has) {
    std::pmr::vector<char> bytes{&resource_};
    bytes.assign(1000, 'x');
    EXPECT_THROW(bytes.resize(arena_->size() + 1), std::bad_alloc);
    EXPECT_EQ(bytes, (std::pmr::vector<char>(1000, 'x', &resource_)));
    EXPECT_THROW((void)resource_.allocate(1, 2 * k_page_size), std::bad_alloc) << "aligned to more than a page";
}

TEST_F(ArenaResourceTest, nothing_has_an_address_too) {
    void* const nothing = resource_.allocate(0);
    EXPECT_TRUE(arena_->contains(nothing));
    resource_.deallocate(nothing, 0);
}

TEST_F(ArenaResourceTest, resources_are_equal_if_they_are_of_one_heap) {
    const auto other_heap = ArenaHeap::create(arena_).value();
    EXPECT_EQ(resource_, ArenaResource{*heap_});
    EXPECT_NE(resource_, ArenaResource{*other_heap});
    EXPECT_FALSE(resource_.is_equal(*std::pmr::new_delete_resource()));
    std::pmr::vector<int> numbers({1, 2, 3}, &resource_);
    ArenaResource same{*heap_};
    const std::pmr::vector<int> moved{std::move(numbers), &same};
    EXPECT_EQ(moved.size(), 3U);
}

// In a process of its own: a forked child's heap answers EOWNERDEAD to everything.
class ArenaResourceDeath : public test::FreshProcess {};

TEST_F(ArenaResourceDeath, freeing_what_was_not_allocated_is_a_bug_of_the_caller) {
    if (!k_debug_checks) GTEST_SKIP() << "preconditions are checked in debug builds";
    const auto arena = make_arena(20);
    const auto heap = ArenaHeap::create(arena).value();
    ArenaResource resource{*heap};
    int local = 0;
    EXPECT_DEATH(resource.deallocate(&local, sizeof local), "had not allocated");
}

}  // namespace
}  // namespace harena
