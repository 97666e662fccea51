// SPDX-License-Identifier: Apache-2.0
//
// Mappings for a moment.
#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "harena/base/os/fault_injection.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::readable;
using test::refused;
using test::VmTest;

class VmMapRam : public VmTest {};

TEST_F(VmMapRam, maps_pages_at_addresses_that_are_used_once_before_they_come_again) {
    const auto pages = take_pages(4);
    std::vector<void*> seen;
    for (int i = 0; i < 256; ++i) {
        void* const at = space_->vm_map_ram(pages).value();
        for (std::uint64_t k = 0; k < 4; ++k) ASSERT_EQ(byte_at(plus(at, k)), static_cast<int>(k + 1));
        seen.push_back(at);
        ASSERT_TRUE(space_->vm_unmap_ram(at, 4));
    }
    std::ranges::sort(seen);
    EXPECT_TRUE(std::ranges::adjacent_find(seen) == seen.end());
    EXPECT_EQ(space_->statistics().vmas, 1U);
    EXPECT_EQ(space_->vm_map_ram(pages).value(), seen[0]);  // all were back: the block begins anew
    give_pages(pages);
}

TEST_F(VmMapRam, mappings_that_are_held_keep_their_block) {
    const auto pages = take_pages(8);
    void* const held = space_->vm_map_ram(std::span{pages}.first(3)).value();
    for (int i = 0; i < 400; ++i) {
        void* const at = space_->vm_map_ram(pages).value();
        ASSERT_EQ(byte_at(held), 1);
        ASSERT_TRUE(space_->vm_unmap_ram(at, 8));
    }
    EXPECT_EQ(byte_at(plus(held, 2)), 3);
    ASSERT_TRUE(space_->vm_unmap_ram(held, 3));
    give_pages(pages);
}

TEST_F(VmMapRam, what_could_not_be_unmapped_is_before_its_block_begins_anew) {
    const auto pages = take_pages(4);
    std::vector<void*> all;
    for (int i = 0; i < 256; ++i) all.push_back(space_->vm_map_ram(pages).value());
    {
        os::FailCall failing{os::Call::mmap, ENOMEM, 0, os::FailCall::Repeat::always};
        const os::ScopedFaultInjector injected{failing};
        for (void* const at : all) ASSERT_TRUE(space_->vm_unmap_ram(at, 4));
    }
    EXPECT_TRUE(readable(plus(all[0], 1)));
    void* const again = space_->vm_map_ram(std::span{pages}.first(1)).value();
    EXPECT_EQ(again, all[0]);
    EXPECT_FALSE(readable(plus(again, 1)));
    EXPECT_FALSE(readable(all[255]));
    give_pages(pages);
}

TEST_F(VmMapRam, what_a_failed_call_could_not_undo_goes_with_all_that_waits) {
    const auto pages = take_pages(3);
    void* const held = space_->vm_map_ram(std::span{pages}.first(1)).value();
    {
        // The first page of two that do not adjoin is mapped; after that, nothing can be mapped or protected.
        test::AtLimitAfter failing{1};
        const os::ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(space_->vm_map_ram(std::array{pages[2], pages[0]}), ENOMEM, "vm.max_map_count"));
    }
    EXPECT_TRUE(readable(plus(held, 1)));
    ASSERT_TRUE(space_->purge());
    EXPECT_FALSE(readable(plus(held, 1)));
    EXPECT_EQ(byte_at(held), 1);
    ASSERT_TRUE(space_->vm_unmap_ram(held, 1));
    give_pages(pages);
}

TEST_F(VmMapRam, wrong_calls_are_refused) {
    const auto pages = take_pages(2);
    void* const at = space_->vm_map_ram(pages).value();
    EXPECT_TRUE(refused(space_->vm_unmap_ram(at, 1), ENOENT, "no vm_map_ram of 1 pages"));
    EXPECT_TRUE(refused(space_->vm_unmap_ram(plus(at, 1), 1), ENOENT, ""));
    EXPECT_TRUE(refused(space_->vm_unmap_ram(at, 0), ENOENT, ""));
    EXPECT_TRUE(refused(space_->vm_unmap_ram(plus(at, 1), 0), ENOENT, ""));  // where no mapping begins
    ASSERT_TRUE(space_->vm_unmap_ram(at, 2));
    EXPECT_TRUE(refused(space_->vm_unmap_ram(at, 2), ENOENT, ""));
    EXPECT_TRUE(refused(space_->vm_map_ram({}), EINVAL, "no pages"));
    EXPECT_TRUE(refused(space_->vm_map_ram(std::vector<Page*>(257, pages[0])), E2BIG, "257 pages"));
    EXPECT_TRUE(refused(space_->vm_map_ram(std::array<Page*, 1>{nullptr}), EINVAL, "null"));
    give_pages(pages);
}

TEST_F(VmMapRam, unmapped_pages_have_no_address_when_it_returns) {
    Page* const page = pool_->unmapped().unmapped_pages_alloc(Order{}).value();
    void* const at = space_->vm_map_ram(std::array{page}).value();
    EXPECT_TRUE(readable(at));
    ASSERT_TRUE(space_->vm_unmap_ram(at, 1));
    EXPECT_FALSE(readable(at));
    ASSERT_TRUE(pool_->free_pages(page, Order{}));
}

}  // namespace
}  // namespace harena
