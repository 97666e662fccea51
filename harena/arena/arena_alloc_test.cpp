// SPDX-License-Identifier: Apache-2.0
//
// The host's calls.
#include <cerrno>
#include <cstring>
#include <map>
#include <random>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::make_arena;
using test::number;
using test::page_at;
using test::usage;

template <typename T>
int code_of(const Result<T>& result) {
    return result ? 0 : result.error().code();
}

class ArenaAlloc : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = make_arena({.name = "alloc", .pages = PageCount{16}});
        ASSERT_NE(arena_, nullptr);
    }
    std::byte* at(std::uint64_t page) { return page_at(*arena_, page); }
    Result<void*> alloc(std::uint64_t count) { return arena_->alloc_pages(PageCount{count}); }
    Result<void*> alloc_at(void* address, std::uint64_t count) {
        return arena_->alloc_pages(PageCount{count}, {.address = address});
    }
    Result<void> free(void* address, std::uint64_t count) { return arena_->free_pages(address, PageCount{count}); }
    Result<void> reserve(void* address, std::uint64_t count) {
        return arena_->reserve_pages(address, PageCount{count});
    }

    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaAlloc, pages_are_zeroed_adjoining_and_writable) {
    const auto pages = alloc(3);
    ASSERT_TRUE(pages) << pages.error().message();
    auto* const bytes = static_cast<std::byte*>(*pages);
    EXPECT_TRUE(test::is_zero(bytes, 3 * k_page_size));
    std::memset(bytes, 0xa5, 3 * k_page_size);
    EXPECT_TRUE(arena_->contains(bytes));
    EXPECT_EQ(usage(*arena_), "3 0");
    EXPECT_EQ(test::host_faults(*arena_), 0U) << "allocated pages do not fault";
}

TEST_F(ArenaAlloc, anywhere_is_the_start_of_the_smallest_sufficient_range) {
    ASSERT_TRUE(alloc_at(at(3), 1));   // 0-3 free
    ASSERT_TRUE(alloc_at(at(6), 1));   // 4-6 free
    ASSERT_TRUE(alloc_at(at(12), 1));  // 7-12 and 13-16 free
    EXPECT_EQ(alloc(2).value(), at(4));
    EXPECT_EQ(alloc(4).value(), at(7));
    EXPECT_EQ(alloc(1).value(), at(11));
    EXPECT_EQ(code_of(alloc(4)), ENOMEM);
}

TEST_F(ArenaAlloc, freed_pages_read_zero_after_reallocation) {
    for (int turn = 0; turn < 3; ++turn) {
        void* const pages = alloc(16).value();
        ASSERT_EQ(pages, at(0));
        ASSERT_TRUE(test::is_zero(at(0), arena_->size()));
        std::memset(pages, 0xff, arena_->size());
        ASSERT_TRUE(free(pages, 16));
        EXPECT_EQ(usage(*arena_), "0 0");
    }
}

TEST_F(ArenaAlloc, a_freed_page_is_absent_and_a_touch_makes_a_new_one) {
    void* const page = alloc(1).value();
    test::byte_at(page) = 7;
    ASSERT_TRUE(free(page, 1));
    EXPECT_EQ(test::byte_at(page), 0);
    EXPECT_EQ(usage(*arena_), "1 0");
    EXPECT_EQ(test::host_faults(*arena_), 1U);
}

TEST_F(ArenaAlloc, part_of_an_allocation_can_be_freed) {
    ASSERT_EQ(alloc(16).value(), at(0));
    ASSERT_TRUE(free(at(5), 2));
    EXPECT_EQ(usage(*arena_), "14 0");
    EXPECT_EQ(alloc(2).value(), at(5));
}

TEST_F(ArenaAlloc, misuse_is_an_error_that_names_it) {
    EXPECT_EQ(code_of(alloc(0)), EINVAL);
    EXPECT_EQ(code_of(alloc(17)), E2BIG);
    EXPECT_EQ(code_of(alloc(~std::uint64_t{0})), E2BIG);
    EXPECT_EQ(code_of(alloc_at(at(0) + 1, 1)), EINVAL);
    EXPECT_EQ(code_of(alloc_at(at(15), 2)), ERANGE);
    EXPECT_EQ(code_of(alloc_at(at(16), 1)), ERANGE);
    EXPECT_EQ(code_of(alloc_at(at(0) - k_page_size, 1)), ERANGE);
    EXPECT_EQ(code_of(alloc_at(reinterpret_cast<void*>(k_page_size), 1)), ERANGE);
    EXPECT_EQ(code_of(arena_->alloc_pages(PageCount{1}, {.node = -2})), EINVAL);
    EXPECT_EQ(code_of(arena_->alloc_pages(PageCount{1}, {.node = 1 << 20})), EINVAL);
    EXPECT_NE(alloc(17).error().message().find("'alloc'"), std::string::npos);
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_F(ArenaAlloc, node_0_is_accepted) { EXPECT_TRUE(arena_->alloc_pages(PageCount{1}, {.node = 0})); }

TEST_F(ArenaAlloc, a_range_with_a_page_in_use_or_reserved_is_EBUSY) {
    ASSERT_TRUE(alloc_at(at(4), 1));
    ASSERT_TRUE(reserve(at(8), 1));
    test::byte_at(at(12)) = 1;
    for (const std::uint64_t begin : {4U, 3U, 8U, 7U, 12U, 11U})
        EXPECT_EQ(code_of(alloc_at(at(begin), 2)), EBUSY) << begin;
    EXPECT_TRUE(alloc_at(at(5), 3));
    EXPECT_EQ(usage(*arena_), "5 1");
}

TEST_F(ArenaAlloc, a_page_that_the_host_touched_is_never_handed_out) {
    test::byte_at(at(0)) = 42;
    for (int i = 0; i < 15; ++i) EXPECT_NE(alloc(1).value(), at(0));
    EXPECT_EQ(code_of(alloc(1)), ENOMEM);
    EXPECT_EQ(test::byte_at(at(0)), 42);
    ASSERT_TRUE(free(at(0), 1));
    EXPECT_EQ(alloc(1).value(), at(0));
    EXPECT_EQ(test::byte_at(at(0)), 0);
}

// The allocator learns of touches late; a free before that must not make the page free twice.
TEST_F(ArenaAlloc, a_page_touched_and_freed_between_two_allocations_is_free_once) {
    ASSERT_EQ(alloc(1).value(), at(0));
    for (const std::uint64_t page : {5U, 7U, 6U}) {
        test::byte_at(at(page)) = 1;
        ASSERT_TRUE(free(at(page), 1));
    }
    test::byte_at(at(9)) = 1;
    test::byte_at(at(10)) = 1;
    ASSERT_TRUE(free(at(9), 2));
    EXPECT_EQ(alloc(15).value(), at(1));
    EXPECT_EQ(code_of(alloc(1)), ENOMEM);
    EXPECT_EQ(usage(*arena_), "16 0");
}

TEST_F(ArenaAlloc, free_is_all_or_nothing_and_names_the_page_that_was_free) {
    ASSERT_TRUE(alloc_at(at(2), 2));
    EXPECT_EQ(code_of(free(nullptr, 1)), EINVAL);
    EXPECT_EQ(code_of(free(at(2) + 8, 1)), EINVAL);
    EXPECT_EQ(code_of(free(at(2), 0)), EINVAL);
    EXPECT_EQ(code_of(free(at(15), 2)), ERANGE);
    EXPECT_EQ(code_of(free(at(2), ~std::uint64_t{0})), ERANGE);
    const auto too_many = free(at(2), 3);
    EXPECT_EQ(code_of(too_many), EINVAL);
    EXPECT_NE(too_many.error().message().find(fmt::format("{}", static_cast<void*>(at(4)))), std::string::npos)
        << too_many.error().message();
    EXPECT_EQ(usage(*arena_), "2 0") << "nothing was freed";
    ASSERT_TRUE(free(at(2), 2));
    EXPECT_EQ(code_of(free(at(2), 2)), EINVAL) << "a double free";
}

TEST_F(ArenaAlloc, reserved_pages_are_kept_out_until_they_are_freed) {
    ASSERT_TRUE(reserve(at(4), 12));
    EXPECT_EQ(usage(*arena_), "0 12");
    EXPECT_EQ(code_of(alloc(5)), ENOMEM);
    EXPECT_EQ(code_of(reserve(at(3), 2)), EBUSY);
    EXPECT_EQ(usage(*arena_), "0 12") << "a refused reservation changes nothing";
    ASSERT_TRUE(free(at(4), 12));
    EXPECT_EQ(alloc(16).value(), at(0));
}

TEST_F(ArenaAlloc, reserve_refuses_misuse) {
    EXPECT_EQ(code_of(reserve(at(0), 0)), EINVAL);
    EXPECT_EQ(code_of(reserve(at(0) + 4, 1)), EINVAL);
    EXPECT_EQ(code_of(reserve(at(15), 2)), ERANGE);
    test::byte_at(at(3)) = 1;
    EXPECT_EQ(code_of(reserve(at(0), 16)), EBUSY);
    EXPECT_EQ(usage(*arena_), "1 0");
}

TEST_F(ArenaAlloc, populate_makes_every_page_present_that_holds_a_byte_of_the_range) {
    ASSERT_TRUE(arena_->populate(at(2) + 4095, 2));
    EXPECT_EQ(usage(*arena_), "2 0");
    const std::uint64_t faults = test::host_faults(*arena_);
    test::byte_at(at(2)) = 1;
    test::byte_at(at(3)) = 1;
    EXPECT_EQ(test::host_faults(*arena_), faults) << "no touch of a populated page faults";
    ASSERT_TRUE(arena_->populate(at(0), arena_->size()));
    EXPECT_EQ(usage(*arena_), "16 0");
    EXPECT_EQ(test::byte_at(at(2)), 1) << "present pages keep their bytes";
}

TEST_F(ArenaAlloc, populate_leaves_reserved_pages_reserved) {
    ASSERT_TRUE(reserve(at(1), 1));
    ASSERT_TRUE(arena_->populate(at(0), 3 * k_page_size));
    EXPECT_EQ(usage(*arena_), "2 1");
    test::byte_at(at(1)) = 1;
    EXPECT_EQ(usage(*arena_), "2 1");
}

TEST_F(ArenaAlloc, populate_refuses_what_is_outside) {
    EXPECT_TRUE(arena_->populate(at(0), 0));
    EXPECT_TRUE(arena_->populate(at(16), 0));
    EXPECT_EQ(code_of(arena_->populate(at(0) - 1, 1)), ERANGE);
    EXPECT_EQ(code_of(arena_->populate(at(16), 1)), ERANGE);
    EXPECT_EQ(code_of(arena_->populate(at(15), k_page_size + 1)), ERANGE);
    EXPECT_EQ(code_of(arena_->populate(at(1), ~std::uint64_t{0})), ERANGE);
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST(ArenaPopulate, is_EFAULT_under_segv_on_fault_unless_the_page_is_there) {
    const auto arena = make_arena({.pages = PageCount{4}, .segv_on_fault = true});
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(code_of(arena->populate(arena->data(), 1)), EFAULT);
    void* const page = arena->alloc_pages(PageCount{1}).value();
    EXPECT_TRUE(arena->populate(page, k_page_size));
    EXPECT_EQ(usage(*arena), "1 0");
}

TEST_F(ArenaAlloc, contains_exactly_its_own_bytes) {
    EXPECT_TRUE(arena_->contains(arena_->data()));
    EXPECT_TRUE(arena_->contains(arena_->data() + arena_->size() - 1));
    EXPECT_FALSE(arena_->contains(arena_->data() + arena_->size()));
    EXPECT_FALSE(arena_->contains(arena_->data() - 1));
    EXPECT_FALSE(arena_->contains(nullptr));
}

// Frees are punched in batches of 512 pages.
TEST(ArenaFree, ranges_longer_than_a_batch_are_freed_whole) {
    const auto arena = make_arena(2100);
    ASSERT_NE(arena, nullptr);
    for (const std::uint64_t count : {511U, 512U, 513U, 1024U, 1025U, 2100U}) {
        void* const pages = arena->alloc_pages(PageCount{count}).value();
        std::memset(pages, 0xee, count * k_page_size);
        ASSERT_TRUE(arena->free_pages(pages, PageCount{count}));
        ASSERT_EQ(usage(*arena), "0 0") << count;
    }
    void* const all = arena->alloc_pages(PageCount{2100}).value();
    EXPECT_TRUE(test::is_zero(static_cast<std::byte*>(all), arena->size()));
}

class ArenaModel : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, ArenaModel, ::testing::Range(0U, 6U));

// Every call and every touch against one character a page: '.' free, 'u' used, 'r' reserved, and the byte it holds.
TEST_P(ArenaModel, behaves_like_one_character_a_page) {
    constexpr std::uint64_t k_pages = 40;
    std::mt19937_64 random{GetParam()};
    const auto arena = make_arena(k_pages);
    ASSERT_NE(arena, nullptr);
    std::string model(k_pages, '.');
    std::vector<unsigned char> content(k_pages);
    const auto all = [&](std::uint64_t begin, std::uint64_t count, std::string_view states) {
        return model.substr(begin, count).find_first_not_of(states) == std::string::npos;
    };
    for (int step = 0; step < 2500; ++step) {
        const std::uint64_t begin = random() % k_pages;
        const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(6, k_pages - begin);
        void* const address = page_at(*arena, begin);
        const auto set = [&](std::uint64_t first, char state) {
            std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, state);
            std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
        };
        switch (random() % 6) {
            case 0: {
                const auto pages = arena->alloc_pages(PageCount{count}, {.address = address});
                ASSERT_EQ(pages.has_value(), all(begin, count, ".")) << step;
                if (pages) set(begin, 'u');
                break;
            }
            case 1: {
                const auto pages = arena->alloc_pages(PageCount{count});
                const bool possible = model.find(std::string(count, '.')) != std::string::npos;
                ASSERT_EQ(pages.has_value(), possible) << step;
                if (!pages) break;
                const std::uint64_t first = (number(*pages) - number(arena->data())) / k_page_size;
                ASSERT_TRUE(all(first, count, ".")) << step;
                ASSERT_TRUE(test::is_zero(page_at(*arena, first), count * k_page_size)) << step;
                set(first, 'u');
                break;
            }
            case 2: {
                const bool freed = arena->free_pages(address, PageCount{count}).has_value();
                ASSERT_EQ(freed, all(begin, count, "ur")) << step;
                if (freed) set(begin, '.');
                break;
            }
            case 3: {
                const bool reserved = arena->reserve_pages(address, PageCount{count}).has_value();
                ASSERT_EQ(reserved, all(begin, count, ".")) << step;
                if (reserved) set(begin, 'r');
                break;
            }
            case 4: {
                arena->kfunc_free_pages(number(address), static_cast<std::uint32_t>(count));
                set(begin, '.');
                break;
            }
            default: {
                volatile unsigned char& byte = test::byte_at(address);
                ASSERT_EQ(byte, content[begin]) << step;
                byte = content[begin] = static_cast<unsigned char>(random());
                if (model[begin] == '.') model[begin] = 'u';
            }
        }
        if (step % 50 == 0) {
            ASSERT_EQ(usage(*arena), fmt::format("{} {}", std::count(model.begin(), model.end(), 'u'),
                                                 std::count(model.begin(), model.end(), 'r')));
        }
    }
    arena->kfunc_free_pages(number(arena->data()), k_pages);
    EXPECT_EQ(usage(*arena), "0 0");
    EXPECT_EQ(arena->alloc_pages(PageCount{k_pages}).value(), arena->data());
}

}  // namespace
}  // namespace harena
