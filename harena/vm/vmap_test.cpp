// SPDX-License-Identifier: Apache-2.0
//
// Pages of the caller at addresses of the space.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <future>
#include <vector>

#include "harena/base/os/fault_injection.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::AtFirst;
using test::readable;
using test::refused;
using test::VmTest;
using test::writable;

class Vmap : public VmTest {};

TEST_F(Vmap, pages_are_one_range_in_the_order_asked_for) {
    const auto pages = take_pages(4);
    const std::array<Page*, 5> order{pages[2], pages[0], pages[1], pages[3], pages[0]};  // one of them twice
    void* const at = space_->vmap(order).value();
    EXPECT_EQ(byte_at(at), 3);
    EXPECT_EQ(byte_at(plus(at, 1)), 1);
    EXPECT_EQ(byte_at(plus(at, 2)), 2);
    EXPECT_EQ(byte_at(plus(at, 3)), 4);
    *plus(at, 4) = std::byte{99};
    EXPECT_EQ(byte_at(plus(at, 1)), 99);
    EXPECT_EQ(byte_at(pool_->page_address(pages[0])), 99);
    EXPECT_FALSE(readable(plus(at, 5)));  // the guard
    ASSERT_TRUE(space_->vunmap(at));
    EXPECT_TRUE(refused(space_->vunmap(at), ENOENT, "a vmap does not begin"));
    give_pages(pages);
}

TEST_F(Vmap, for_reading_cannot_be_written_to) {
    const auto pages = take_pages(1);
    void* const at = space_->vmap(pages, VmProtection::read).value();
    EXPECT_TRUE(readable(at));
    EXPECT_FALSE(writable(at));
    ASSERT_TRUE(space_->vunmap(at));
    give_pages(pages);
}

TEST_F(Vmap, pages_inside_of_blocks_are_pages_too) {
    Page* const block = pool_->alloc_pages(Order{3}).value();
    std::vector<Page*> pages;
    for (std::uint32_t i = 0; i < 8; ++i) pages.push_back(pool_->page(pool_->pfn(block) + i));
    std::ranges::reverse(pages);
    *pool_->page_address(pages[2]) = std::byte{7};
    void* const at = space_->vmap(pages).value();
    EXPECT_EQ(byte_at(plus(at, 2)), 7);
    ASSERT_TRUE(space_->vunmap(at));
    ASSERT_TRUE(pool_->free_pages(block, Order{3}));
}

TEST_F(Vmap, bad_pages_are_refused) {
    const auto pages = take_pages(2);
    EXPECT_TRUE(refused(space_->vmap({}), EINVAL, "no pages"));
    EXPECT_TRUE(refused(space_->vmap(std::array<Page*, 2>{pages[0], nullptr}), EINVAL, "page 1 of 2 is null"));
    EXPECT_TRUE(refused(space_->vmap(std::array{pages[0], pool_->page(Pfn{5000})}), EINVAL, "page 1 of 2"));
    const auto other = make_pool();
    Page* const foreign = other->alloc_pages(Order{}).value();
    EXPECT_TRUE(refused(space_->vmap(std::array{foreign}), EINVAL, "page 0 of 1"));
    ASSERT_TRUE(other->free_pages(foreign, Order{}));
    EXPECT_TRUE(refused(make_space(nullptr)->vmap(pages), EINVAL, "no pool"));
    EXPECT_EQ(space_->statistics().areas, 0U);
    give_pages(pages);
}

TEST_F(Vmap, is_the_only_address_of_unmapped_pages_and_ends_at_once) {
    Page* const page = pool_->unmapped().unmapped_pages_alloc(Order{}).value();
    void* const at = space_->vmap(std::array{page}).value();
    EXPECT_TRUE(writable(at));
    EXPECT_FALSE(readable(pool_->page_address(page)));
    ASSERT_TRUE(space_->vunmap(at));
    EXPECT_FALSE(readable(at));
    EXPECT_EQ(space_->statistics().unpurged, 0U);
    ASSERT_TRUE(pool_->free_pages(page, Order{}));
}

/// A page that was mapped and given back, and has become one without an address: nothing reads it.
TEST_F(Vmap, pages_that_leave_the_direct_map_have_no_old_address_either) {
    const auto small = make_pool(1);
    const auto space = make_space(small.get());
    // Each way to map a page of the caller's; what is unmapped stays mapped for a while.
    const auto pages = [&] { return std::array{small->alloc_pages(Order{}).value()}; };
    const auto expect_nothing_is_left = [&](const void* at, const Page* page) {
        EXPECT_TRUE(readable(at));
        ASSERT_TRUE(small->free_pages(const_cast<Page*>(page), Order{}));
        Page* const hidden = small->unmapped().unmapped_pages_alloc(k_pageblock_order).value();
        EXPECT_FALSE(readable(at));
        ASSERT_TRUE(small->free_pages(hidden, k_pageblock_order));
        ASSERT_TRUE(small->reclaim(small->capacity()));
    };
    const auto first = pages();
    void* const mapped = space->vmap(first).value();
    ASSERT_TRUE(space->vunmap(mapped));
    expect_nothing_is_left(mapped, first[0]);

    const auto second = pages();
    void* const moment = space->vm_map_ram(second).value();
    ASSERT_TRUE(space->vm_unmap_ram(moment, 1));
    expect_nothing_is_left(moment, second[0]);

    const auto third = pages();
    VmArea* const area = space->get_vm_area(k_page_size, VmKind::sparse).value();
    std::byte* const at = area->begin();
    ASSERT_TRUE(space->map_pages(area, at, at + k_page_size, third));
    ASSERT_TRUE(space->free_vm_area(area));
    expect_nothing_is_left(at, third[0]);
}

TEST_F(Vmap, a_space_that_ends_leaves_no_old_address_of_a_page_that_leaves_the_direct_map) {
    const auto small = make_pool(1);
    auto space = make_space(small.get());
    Page* const page = small->alloc_pages(Order{}).value();
    void* const at = space->vmap(std::array{page}).value();
    ASSERT_TRUE(space->vunmap(at));
    ASSERT_TRUE(small->free_pages(page, Order{}));
    // Another thread wants the page while the space is about to give its addresses back: it has it only after that.
    std::future<bool> still_there;
    AtFirst meanwhile{os::Call::munmap, [&] {
                          still_there = std::async(std::launch::async, [&] {
                              Page* const hidden = small->unmapped().unmapped_pages_alloc(k_pageblock_order).value();
                              const bool there = readable(at);
                              EXPECT_TRUE(small->free_pages(hidden, k_pageblock_order));
                              return there;
                          });
                          (void)still_there.wait_for(std::chrono::milliseconds{200});
                          return 0;
                      }};
    {
        const os::ScopedFaultInjector injected{meanwhile};
        space.reset();
        EXPECT_FALSE(still_there.get());
    }
}

TEST_F(Vmap, a_page_that_keeps_an_old_address_is_not_handed_out_as_one_without) {
    const auto small = make_pool(1);
    const auto space = make_space(small.get());
    Page* const page = small->alloc_pages(Order{}).value();
    void* const at = space->vmap(std::array{page}).value();
    ASSERT_TRUE(space->vunmap(at));
    ASSERT_TRUE(small->free_pages(page, Order{}));
    os::FailCall failing{os::Call::mmap, ENOMEM, 1, os::FailCall::Repeat::always};  // the pageblock leaves; no more
    {
        const os::ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(small->unmapped().unmapped_pages_alloc(Order{}), ENOMEM, "cannot unmap"));
    }
    EXPECT_EQ(small->unmapped().statistics().allocated, PageCount{0});
    EXPECT_TRUE(readable(at));
    Page* const hidden = small->unmapped().unmapped_pages_alloc(Order{}).value();
    EXPECT_FALSE(readable(at));
    ASSERT_TRUE(small->free_pages(hidden, Order{}));
}

TEST_F(Vmap, a_block_of_moments_that_is_in_use_loses_only_what_was_given_back) {
    const auto pages = take_pages(3);
    std::vector<void*> at;
    for (Page* const page : pages) at.push_back(space_->vm_map_ram(std::array{page}).value());
    ASSERT_TRUE(space_->vm_unmap_ram(at[1], 1));
    EXPECT_TRUE(readable(at[1]));
    ASSERT_TRUE(space_->purge());
    EXPECT_FALSE(readable(at[1]));
    EXPECT_EQ(byte_at(at[0]), 1);
    EXPECT_EQ(byte_at(at[2]), 3);
    ASSERT_TRUE(space_->vm_unmap_ram(at[0], 1));
    ASSERT_TRUE(space_->vm_unmap_ram(at[2], 1));
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(space_->statistics().areas, 0U);
    EXPECT_EQ(space_->statistics().free_bytes, space_->bytes());
    give_pages(pages);
}

}  // namespace
}  // namespace harena
