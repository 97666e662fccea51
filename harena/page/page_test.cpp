// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <unordered_set>
#include <utility>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"

namespace harena {
namespace {

bool same(const PageWord& a, const PageWord& b) {
    return a.state == b.state && a.order == b.order && a.list == b.list && a.zero == b.zero &&
           a.unmapped == b.unmapped && a.references == b.references;
}

template <typename Visit>
void for_each_word(Visit&& visit) {
    for (const BlockState state : {BlockState::inner, BlockState::free, BlockState::cached, BlockState::allocated})
        for (std::uint8_t order = 0; order < k_orders; ++order)
            for (const int list : {0, 1, 63, 254, 255})
                for (const bool zero : {false, true})
                    for (const bool unmapped : {false, true})
                        for (const std::uint32_t references : {0U, 1U, 2U, 0x8000'0000U, ~0U})
                            visit(PageWord{.state = state,
                                           .order = Order{order},
                                           .list = static_cast<std::uint8_t>(list),
                                           .zero = zero,
                                           .unmapped = unmapped,
                                           .references = references});
}

TEST(PageWord, packing_keeps_every_field_and_no_two_words_are_packed_alike) {
    std::unordered_set<std::uint64_t> seen;
    for_each_word([&](const PageWord& word) {
        ASSERT_TRUE(same(PageWord::from(word.bits()), word)) << word.bits();
        ASSERT_TRUE(seen.insert(word.bits()).second) << word.bits();
    });
}

TEST(PageWord, all_zero_bits_are_an_inner_page) {
    EXPECT_EQ(PageWord{}.bits(), 0U);
    EXPECT_EQ(PageWord::from(0).state, BlockState::inner);
}

TEST(Page, an_exchange_happens_only_from_exactly_the_expected_word) {
    const auto pages = PageArray::create(1);
    ASSERT_TRUE(pages) << pages.error().message();
    Page& page = (*pages)[Pfn{0}];
    const PageWord before{.state = BlockState::allocated, .order = Order{3}, .references = 2};
    for_each_word([&](const PageWord& other) {
        page.store(before);
        std::uint64_t expected = other.bits();
        const bool done = page.exchange(expected, {.state = BlockState::cached});
        ASSERT_EQ(done, same(other, before));
        ASSERT_EQ(expected, before.bits()) << "what it was";
        ASSERT_TRUE(same(page.load(), done ? PageWord{.state = BlockState::cached} : before));
    });
}

TEST(PageArray, all_descriptors_are_inner_at_first) {
    const auto pages = PageArray::create(5000);
    ASSERT_TRUE(pages) << pages.error().message();
    EXPECT_EQ(pages->size(), 5000U);
    for (std::uint32_t i = 0; i < pages->size(); ++i) {
        const Page& page = (*pages)[Pfn{i}];
        ASSERT_EQ(page.load().bits(), 0U) << i;
        ASSERT_EQ(page.account(), nullptr) << i;
        ASSERT_EQ(page.owner_data, 0U) << i;
    }
}

TEST(PageArray, find_is_the_inverse_of_indexing) {
    const auto pages = PageArray::create(1000);
    ASSERT_TRUE(pages) << pages.error().message();
    for (std::uint32_t i = 0; i < pages->size(); ++i) {
        ASSERT_EQ(pages->find(&(*pages)[Pfn{i}]), Pfn{i});
        ASSERT_EQ(pages->pfn_of((*pages)[Pfn{i}]), Pfn{i});
    }
}

const Page* pointer(std::uint64_t address) { return reinterpret_cast<const Page*>(address); }

TEST(PageArray, find_has_nothing_for_a_pointer_to_no_descriptor_of_it) {
    const auto pages = PageArray::create(1000);
    const auto others = PageArray::create(1000);
    ASSERT_TRUE(pages) << pages.error().message();
    ASSERT_TRUE(others) << others.error().message();
    const auto begin = reinterpret_cast<std::uint64_t>(&(*pages)[Pfn{0}]);
    const std::uint64_t end = begin + 1000 * sizeof(Page);
    EXPECT_EQ(pages->find(nullptr), std::nullopt);
    EXPECT_EQ(pages->find(pointer(begin - sizeof(Page))), std::nullopt) << "before the first";
    EXPECT_EQ(pages->find(pointer(begin - 1)), std::nullopt);
    EXPECT_EQ(pages->find(pointer(end)), std::nullopt) << "after the last";
    EXPECT_EQ(pages->find(pointer(~std::uint64_t{0} & ~(sizeof(Page) - 1))), std::nullopt);
    for (std::uint64_t inside = 1; inside < sizeof(Page); ++inside) {
        EXPECT_EQ(pages->find(pointer(begin + inside)), std::nullopt) << inside;
        EXPECT_EQ(pages->find(pointer(end - inside)).has_value(), false) << inside;
    }
    EXPECT_EQ(pages->find(&(*others)[Pfn{0}]), std::nullopt) << "of another array";
    EXPECT_EQ(pages->find(&(*others)[Pfn{999}]), std::nullopt);
    const int local = 0;
    EXPECT_EQ(pages->find(reinterpret_cast<const Page*>(&local)), std::nullopt);
}

TEST(PageArray, a_moved_array_keeps_its_descriptors_where_they_are) {
    auto pages = PageArray::create(10);
    ASSERT_TRUE(pages) << pages.error().message();
    Page* const third = &(*pages)[Pfn{3}];
    third->owner_data = 77;
    const PageArray moved{std::move(*pages)};
    EXPECT_EQ(moved.size(), 10U);
    EXPECT_EQ(moved.find(third), Pfn{3});
    EXPECT_EQ(moved[Pfn{3}].owner_data, 77U);
}

TEST(PageArray, descriptors_of_1_tib_use_memory_only_where_one_is_written) {
    constexpr std::uint32_t k_pages = 1U << 28;
    const auto pages = PageArray::create(k_pages);
    ASSERT_TRUE(pages) << pages.error().message();
    std::byte* const begin = reinterpret_cast<std::byte*>(&(*pages)[Pfn{0}]);
    for (const std::uint32_t i : {0U, k_pages / 2, k_pages - 1}) {
        auto* const at = begin + align_down(std::uint64_t{i} * sizeof(Page), k_page_size);
        unsigned char present = 0xff;
        ASSERT_EQ(::mincore(at, k_page_size, &present), 0);
        EXPECT_EQ(present & 1, 0) << i;
        (*pages)[Pfn{i}].store({.state = BlockState::free});
        EXPECT_EQ((*pages)[Pfn{i}].load().state, BlockState::free);
        ASSERT_EQ(::mincore(at, k_page_size, &present), 0);
        EXPECT_EQ(present & 1, 1) << i;
    }
}

TEST(PageArray, no_memory_for_the_descriptors_is_ENOMEM) {
    os::FailCall failing{os::Call::mmap, ENOMEM};
    const os::ScopedFaultInjector injected{failing};
    const auto pages = PageArray::create(512);
    ASSERT_FALSE(pages);
    EXPECT_EQ(pages.error().code(), ENOMEM);
    EXPECT_NE(pages.error().message().find("512 pages"), std::string::npos) << pages.error().message();
}

}  // namespace
}  // namespace harena
