// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/vm_space.hpp"

#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <numeric>
#include <string>
#include <thread>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/vm/test_support.hpp"
#include "harena/vm/vmallocinfo.hpp"

namespace harena {
namespace {

using test::readable;
using test::refused;
using test::VmTest;
using test::writable;

class VmAreas : public VmTest {};

TEST_F(VmAreas, come_from_the_lowest_addresses_with_a_guard_after_each) {
    VmArea* const first = space_->get_vm_area(1, VmKind::map).value();
    VmArea* const second = space_->get_vm_area(2 * k_page_size, VmKind::map).value();
    VmArea* const bare = space_->get_vm_area(k_page_size, VmKind::map, {.no_guard = true}).value();
    VmArea* const last = space_->get_vm_area(k_page_size, VmKind::map).value();
    EXPECT_EQ(first->begin(), space_->base());
    EXPECT_EQ(first->bytes(), k_page_size);
    EXPECT_EQ(second->begin(), space_->base() + 2 * k_page_size);
    EXPECT_EQ(bare->begin(), second->begin() + 3 * k_page_size);
    EXPECT_EQ(last->begin(), bare->begin() + k_page_size);
    ASSERT_TRUE(space_->free_vm_area(first));
    EXPECT_EQ(space_->get_vm_area(k_page_size, VmKind::map).value()->begin(), space_->base());
}

TEST_F(VmAreas, are_found_by_every_address_in_them_and_their_guard) {
    (void)space_->get_vm_area(k_page_size, VmKind::map).value();
    VmArea* const area = space_->get_vm_area(3 * k_page_size, VmKind::sparse).value();
    for (const std::uint64_t offset : {0UL, 1UL, 3 * k_page_size - 1, 3 * k_page_size, 4 * k_page_size - 1}) {
        const auto found = space_->find_vm_area(area->begin() + offset);
        ASSERT_TRUE(found) << offset;
        EXPECT_EQ(found->begin, reinterpret_cast<std::uint64_t>(area->begin()));
        EXPECT_EQ(found->bytes, 3 * k_page_size);
        EXPECT_EQ(found->kind, VmKind::sparse);
    }
    EXPECT_NE(space_->find_vm_area(area->begin() - 1)->begin, reinterpret_cast<std::uint64_t>(area->begin()));
    EXPECT_FALSE(space_->find_vm_area(area->begin() + 4 * k_page_size));
    EXPECT_FALSE(space_->find_vm_area(space_->base() - 1));
    EXPECT_FALSE(space_->find_vm_area(space_->base() + space_->bytes()));
    EXPECT_FALSE(space_->find_vm_area(nullptr));
    std::byte* const begin = area->begin();
    ASSERT_TRUE(space_->free_vm_area(area));
    EXPECT_FALSE(space_->find_vm_area(begin));
}

TEST_F(VmAreas, that_come_and_go_are_found_only_where_they_are) {
    constexpr std::uint64_t k_pages = 24;
    std::atomic<bool> ends{false};
    std::uint64_t found_any = 0;
    std::jthread looks{[&] {
        for (std::uint64_t i = 0; i < 1000 || !ends.load(); ++i) {
            const std::byte* const at = space_->base() + i % k_pages * k_page_size + 7;
            const auto found = space_->find_vm_area(at);
            if (!found) continue;
            ++found_any;
            ASSERT_EQ(found->state, AreaState::live);
            ASSERT_LT(reinterpret_cast<std::uint64_t>(at) - found->begin, found->bytes + found->guard_bytes);
        }
    }};
    // Numbers are used again at once, for areas elsewhere; what had pages waits for a while, with its record.
    const auto pages = take_pages(1);
    constexpr int k_rounds = test::k_sanitizer ? 5'000 : 50'000;
    for (int round = 0; round < k_rounds; ++round) {
        VmArea* const low =
            space_->get_vm_area((1 + static_cast<std::uint64_t>(round) % 5) * k_page_size, VmKind::sparse).value();
        VmArea* const high = space_->get_vm_area(2 * k_page_size, VmKind::map).value();
        if (round % 4 == 0) {
            ASSERT_TRUE(space_->map_pages(low, low->begin(), plus(low->begin(), 1), pages));
        }
        ASSERT_TRUE(space_->free_vm_area(low));
        VmArea* const other = space_->get_vm_area(k_page_size, VmKind::map).value();
        ASSERT_TRUE(space_->free_vm_area(high));
        ASSERT_TRUE(space_->free_vm_area(other));
        if (round % 4 == 0) {
            ASSERT_TRUE(space_->purge());
        }
    }
    ends = true;
    looks.join();
    EXPECT_GT(found_any, 0U);
    give_pages(pages);
}

TEST_F(VmAreas, that_cannot_be_are_refused) {
    EXPECT_TRUE(refused(space_->get_vm_area(0, VmKind::map), EINVAL, "0 bytes"));
    EXPECT_TRUE(refused(space_->get_vm_area(k_space_bytes + 1, VmKind::map), ENOMEM, "in a space of"));
    EXPECT_TRUE(refused(space_->get_vm_area(k_space_bytes, VmKind::map), ENOMEM, "no 268439552 free adjoining bytes"));
    EXPECT_TRUE(refused(space_->get_vm_area(~0ULL, VmKind::map), ENOMEM, "in a space of"));
    EXPECT_TRUE(refused(space_->get_vm_area(k_page_size, VmKind::sparse, {.no_guard = true}), EINVAL, "guard"));
    EXPECT_TRUE(refused(space_->get_vm_area(k_page_size, VmKind::ram), EINVAL, "vm_map_ram"));
    EXPECT_TRUE(refused(space_->get_vm_area(k_page_size, VmKind::backed), EINVAL, "take_window"));
    EXPECT_TRUE(space_->get_vm_area(k_space_bytes, VmKind::map, {.no_guard = true}));
    EXPECT_TRUE(refused(VmSpace::create({.bytes = 0}), EINVAL, "0 bytes"));
    EXPECT_TRUE(refused(VmSpace::create({.bytes = ~0ULL}), EINVAL, "bytes"));
}

TEST_F(VmAreas, freed_twice_or_elsewhere_are_refused) {
    const auto other = make_space(pool_.get());
    VmArea* const area = space_->get_vm_area(k_page_size, VmKind::map).value();
    EXPECT_TRUE(refused(other->free_vm_area(area), EINVAL, "not an area of this space"));
    (void)other->get_vm_area(k_page_size, VmKind::map).value();  // its number is that of `area`
    EXPECT_TRUE(refused(other->free_vm_area(area), EINVAL, "not an area of this space"));
    EXPECT_EQ(other->statistics().areas, 1U);
    ASSERT_TRUE(other->remove_vm_area(other->base()));
    EXPECT_TRUE(refused(space_->free_vm_area(nullptr), EINVAL, "not an area"));
    std::byte* const begin = area->begin();
    EXPECT_TRUE(refused(space_->remove_vm_area(begin + k_page_size), ENOENT, "no area begins at"));
    EXPECT_TRUE(refused(other->remove_vm_area(begin), ENOENT, "no area begins at"));
    ASSERT_TRUE(space_->free_vm_area(area));
    EXPECT_TRUE(refused(space_->free_vm_area(area), EINVAL, "not an area"));
    EXPECT_TRUE(refused(space_->remove_vm_area(begin), ENOENT, "no area begins at"));
}

TEST_F(VmAreas, removed_by_address_say_what_they_were) {
    VmArea* const area = space_->get_vm_area(5 * k_page_size, VmKind::sparse, {.user = true, .name = "table"}).value();
    const auto pages = take_pages(2);
    ASSERT_TRUE(space_->map_pages(area, area->begin(), plus(area->begin(), 2), pages));
    const auto info = space_->remove_vm_area(area->begin());
    ASSERT_TRUE(info) << info.error().message();
    EXPECT_EQ(info->bytes, 5 * k_page_size);
    EXPECT_EQ(info->kind, VmKind::sparse);
    EXPECT_EQ(info->pages, 2U);
    EXPECT_TRUE(info->user);
    EXPECT_EQ(info->name, "table");
    EXPECT_NE(info->where.find("vm_space_test.cpp:"), std::string::npos);
    give_pages(pages);
}

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

/// Does something before the first call of a kind, which fails with what that returns.
class AtFirst final : public os::FaultInjector {
public:
    AtFirst(os::Call call, std::function<int()> does) : call_{call}, does_{std::move(does)} {}
    int on_call(os::Call call) noexcept override { return call == call_ && !done_.exchange(true) ? does_() : 0; }

private:
    os::Call call_;
    std::function<int()> does_;
    std::atomic<bool> done_{false};
};

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

class Vmalloc : public VmTest {};

TEST_F(Vmalloc, memory_is_there_to_be_written_and_comes_back) {
    for (const std::uint64_t bytes : {std::uint64_t{1}, k_page_size, 5 * k_page_size + 7, 64 * k_kib, 3 * k_mib}) {
        void* const at = space_->vmalloc(bytes).value();
        std::memset(at, 0xab, bytes);
        EXPECT_FALSE(readable(static_cast<std::byte*>(at) + align_up(bytes, k_page_size)));
        EXPECT_EQ(space_->find_vm_area(at)->kind, VmKind::alloc);
        ASSERT_TRUE(space_->vfree(at));
        EXPECT_TRUE(refused(space_->vfree(at), ENOENT, "a vmalloc does not begin"));
    }
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(pool_->statistics().allocated, PageCount{0});
    EXPECT_EQ(space_->statistics().free_bytes, space_->bytes());
    EXPECT_EQ(space_->statistics().largest_free_bytes, space_->bytes());
}

TEST_F(Vmalloc, vzalloc_gives_zeros_whatever_was_there) {
    for (int round = 0; round < 3; ++round) {
        auto* const at = static_cast<std::byte*>(space_->vzalloc(10 * k_page_size).value());
        EXPECT_TRUE(std::all_of(at, at + 10 * k_page_size, [](std::byte b) { return b == std::byte{0}; }));
        std::memset(at, 0xff, 10 * k_page_size);
        ASSERT_TRUE(space_->vfree(at));
        ASSERT_TRUE(space_->purge());
    }
}

TEST_F(Vmalloc, pages_may_be_anywhere) {
    // No two free pages adjoin.
    std::vector<Page*> all(pool_->capacity().value());
    ASSERT_TRUE(pool_->alloc_bulk(all));
    std::ranges::sort(all, {}, [&](const Page* page) { return pool_->pfn(page); });
    for (std::size_t i = 0; i < 40; ++i) ASSERT_TRUE(pool_->free_pages(all[2 * i], Order{}));
    void* const at = space_->vmalloc(40 * k_page_size).value();
    for (std::uint64_t i = 0; i < 40; ++i) *plus(at, i) = std::byte{static_cast<unsigned char>(i)};
    for (std::uint64_t i = 0; i < 40; ++i) EXPECT_EQ(byte_at(plus(at, i)), static_cast<int>(i));
    EXPECT_TRUE(refused(space_->vmalloc(k_page_size), ENOMEM, "capacity"));
    ASSERT_TRUE(space_->vfree(at));
    ASSERT_TRUE(space_->purge());
    for (std::size_t i = 0; i < all.size(); ++i)
        if (i >= 80 || i % 2 == 1) {
            ASSERT_TRUE(pool_->free_pages(all[i], Order{}));
        }
}

TEST_F(Vmalloc, on_unmapped_pages_has_one_address_and_none_when_it_is_freed) {
    auto* const at = static_cast<std::byte*>(space_->vzalloc(20 * k_page_size, {.unmapped = true}).value());
    std::memset(at, 0x77, 20 * k_page_size);
    EXPECT_EQ(pool_->unmapped().statistics().allocated, PageCount{20});
    ASSERT_TRUE(space_->vfree(at));
    EXPECT_FALSE(readable(at));
    EXPECT_EQ(pool_->unmapped().statistics().allocated, PageCount{0});
}

TEST_F(Vmalloc, accounts_are_charged_until_the_pages_are_back) {
    PageAccount account{"vmalloc", PageCount{10}};
    void* const at = space_->vmalloc(8 * k_page_size, {.account = &account}).value();
    EXPECT_EQ(account.used(), PageCount{8});
    EXPECT_TRUE(refused(space_->vmalloc(3 * k_page_size, {.account = &account}), ENOMEM, "account 'vmalloc'"));
    EXPECT_EQ(account.used(), PageCount{8});
    ASSERT_TRUE(space_->vfree(at));
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(account.used(), PageCount{0});
}

TEST_F(Vmalloc, sealed_contents_can_be_read_and_nothing_can_change_them) {
    std::vector<std::byte> contents(2 * k_page_size + 100);
    for (std::size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<std::byte>(i * 7);
    const void* const at = space_->vmalloc_sealed(contents).value();
    EXPECT_EQ(std::memcmp(at, contents.data(), contents.size()), 0);
    EXPECT_EQ(byte_at(static_cast<const std::byte*>(at) + contents.size()), 0);  // the rest of the last page
    EXPECT_FALSE(writable(const_cast<void*>(at)));
    EXPECT_EQ(pool_->unmapped().statistics().allocated, PageCount{3});
    ASSERT_TRUE(space_->vfree(at));
    EXPECT_TRUE(refused(space_->vmalloc_sealed({}), EINVAL, "0 bytes"));
}

TEST_F(Vmalloc, sealed_contents_end_with_zeros_whatever_was_in_their_page) {
    const auto small = make_pool(1);
    const auto space = make_space(small.get());
    void* const before = space->vmalloc(k_pageblock_pages * k_page_size, {.unmapped = true}).value();
    std::memset(before, 0xff, k_pageblock_pages * k_page_size);
    ASSERT_TRUE(space->vfree(before));
    const std::array<std::byte, 3> contents{std::byte{1}, std::byte{2}, std::byte{3}};
    const auto* const at = static_cast<const std::byte*>(space->vmalloc_sealed(contents).value());
    EXPECT_EQ(byte_at(at + 2), 3);
    EXPECT_TRUE(test::is_zero(at + 3, k_page_size - 3));
}

TEST_F(Vmalloc, what_is_freed_is_unmapped_later_and_together) {
    std::vector<void*> all;
    for (int i = 0; i < 50; ++i) all.push_back(space_->vmalloc(4 * k_page_size).value());
    for (void* const at : all) ASSERT_TRUE(space_->vfree(at));
    EXPECT_EQ(space_->statistics().unpurged, 50U);
    EXPECT_EQ(space_->statistics().areas, 0U);
    EXPECT_FALSE(space_->find_vm_area(all[0]));
    EXPECT_EQ(pool_->statistics().allocated, PageCount{200});  // not to be used again while they are mapped
    os::FailCall counting{os::Call::mmap, ENOMEM, ~0ULL};
    {
        const os::ScopedFaultInjector injected{counting};
        ASSERT_TRUE(space_->purge());
    }
    EXPECT_EQ(counting.seen(), 1U);
    EXPECT_EQ(pool_->statistics().allocated, PageCount{0});
    EXPECT_EQ(space_->statistics().unpurged, 0U);
}

TEST_F(Vmalloc, what_waits_to_be_unmapped_is_bounded) {
    const auto large_pool = make_pool(32);
    const auto space = make_space(large_pool.get());
    for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(space->vfree(space->vmalloc(k_page_size).value()));
        ASSERT_LE(space->statistics().unpurged, 64U);
    }
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(space->vfree(space->vmalloc(8 * k_mib).value()));
        ASSERT_LE(space->statistics().unpurged_bytes, 32 * k_mib + 8 * k_page_size);
    }
    EXPECT_GT(space->statistics().purges, 10U);
}

TEST_F(Vmalloc, pages_that_wait_are_had_before_there_are_none) {
    const auto small = make_pool(1);
    const auto space = make_space(small.get());
    PageAccount account{"vmalloc", PageCount{400}};
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(space->vfree(space->vmalloc(400 * k_page_size).value()));
    for (int i = 0; i < 5; ++i)
        ASSERT_TRUE(space->vfree(space->vmalloc(300 * k_page_size, {.account = &account}).value()));
    EXPECT_TRUE(refused(space->vmalloc(600 * k_page_size), ENOMEM, "capacity"));
    ASSERT_TRUE(space->purge());
    EXPECT_EQ(account.used(), PageCount{0});
}

TEST_F(Vmalloc, a_page_with_another_reference_stays_with_who_has_it) {
    auto* const at = static_cast<std::byte*>(space_->vmalloc(k_page_size).value());
    *at = std::byte{42};
    Page* page = nullptr;
    for (std::uint32_t pfn = 0; pfn < pool_->capacity().value() && page == nullptr; ++pfn)
        if (pool_->block_of(pool_->page(Pfn{pfn})) != nullptr) page = pool_->page(Pfn{pfn});
    ASSERT_TRUE(pool_->get_page(page));
    ASSERT_TRUE(space_->vfree(at));
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(*pool_->page_address(page), std::byte{42});
    ASSERT_TRUE(pool_->put_page(page));
    EXPECT_EQ(pool_->statistics().allocated, PageCount{0});
}

TEST_F(Vmalloc, addresses_that_wait_are_had_before_there_are_none) {
    const auto small = make_space(pool_.get(), 2 * k_mib);  // 512 pages
    void* const first = small->vmalloc(500 * k_page_size).value();
    ASSERT_TRUE(small->vfree(first));
    EXPECT_EQ(small->statistics().unpurged, 1U);
    EXPECT_EQ(small->vmalloc(500 * k_page_size).value(), first);
}

TEST_F(VmTest, a_file_can_be_mapped) {
    const int file = ::memfd_create("device", MFD_CLOEXEC);
    ASSERT_EQ(::ftruncate(file, 3 * static_cast<off_t>(k_page_size)), 0);
    ASSERT_EQ(::pwrite(file, "registers", 10, static_cast<off_t>(k_page_size)), 10);
    void* const at = space_->ioremap(file, k_page_size, 2 * k_page_size).value();
    EXPECT_STREQ(static_cast<const char*>(at), "registers");
    EXPECT_TRUE(refused(space_->ioremap(file, 1, k_page_size), EINVAL, "offset 1"));
    EXPECT_TRUE(refused(space_->ioremap(file, 0, 0), EINVAL, "0 bytes"));
    EXPECT_TRUE(refused(space_->ioremap(-1, 0, k_page_size), EBADF, "cannot map"));
    EXPECT_TRUE(refused(space_->vunmap(at), ENOENT, ""));
    ASSERT_TRUE(space_->iounmap(at));
    EXPECT_TRUE(refused(space_->iounmap(at), ENOENT, "an ioremap does not begin"));
    ASSERT_TRUE(space_->purge());
    EXPECT_FALSE(readable(at));
    ::close(file);
}

/// What is mapped at an address, "(none)" for a hole.
std::string mapping_at(const void* at) {
    return os::find_mapping(reinterpret_cast<std::uint64_t>(at), k_page_size).value_or("(none)");
}

TEST_F(VmTest, a_device_that_refuses_leaves_no_hole_in_the_space) {
    const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);  // has an mmap, which says no
    EXPECT_TRUE(refused(space_->ioremap(socket, 0, 4 * k_page_size), ENODEV, "cannot map 16384 bytes"));
    for (std::uint64_t page = 0; page < 5; ++page)
        EXPECT_NE(mapping_at(plus(space_->base(), page)).find(" ---p "), std::string::npos) << page;
    ::close(socket);
    EXPECT_EQ(space_->statistics().areas, 0U);
    EXPECT_EQ(space_->statistics().vmas, 1U);
}

TEST_F(VmTest, a_device_that_cannot_be_moved_into_the_space_is_not_left_beside_it) {
    const std::size_t mappings = test::count_mappings("memfd:harena:pages");
    // The kernel had begun: what was there is gone.
    AtFirst failing{os::Call::mremap, [&] { return ::munmap(space_->base(), k_page_size) == 0 ? ENOMEM : EFAULT; }};
    {
        const os::ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(space_->ioremap(pool_->fd(), 0, k_page_size), ENOMEM, "vm.max_map_count"));
    }
    EXPECT_EQ(test::count_mappings("memfd:harena:pages"), mappings);
    EXPECT_NE(mapping_at(space_->base()).find(" ---p "), std::string::npos);
}

TEST_F(VmTest, files_on_hugetlb_pages_are_refused) {
    const auto file = os::memfd_create_hugetlb("device");
    if (!file) GTEST_SKIP() << "the kernel has no hugetlb files";
    ASSERT_TRUE(os::ftruncate(file->get(), k_huge_page_size));
    EXPECT_TRUE(refused(space_->ioremap(file->get(), 0, k_page_size), EINVAL, "hugetlb"));
    EXPECT_NE(mapping_at(space_->base()).find(" ---p "), std::string::npos);
    const auto pool = PagePool::create({.capacity = PageCount{k_pageblock_pages}, .hugetlb = true});
    ASSERT_TRUE(test::ok(pool));
    EXPECT_TRUE(refused(VmSpace::create({.bytes = k_mib, .pool = pool->get()}), ENOTSUP, "hugetlb"));
}

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

TEST_F(VmTest, vmallocinfo_has_a_line_for_each_kind) {
    const auto pages = take_pages(3);
    const int file = ::memfd_create("device", MFD_CLOEXEC);
    ASSERT_EQ(::ftruncate(file, 3 * static_cast<off_t>(k_page_size)), 0);
    const auto here = [](std::source_location where = std::source_location::current()) { return where; }();
    (void)space_->vmalloc(3 * k_page_size, {.where = here}).value();
    (void)space_->vmalloc(600 * k_page_size, {.name = "big", .where = here}).value();
    (void)space_->vmap(pages, VmProtection::read_write, {.user = true, .where = here}).value();
    void* const gone = space_->vmalloc(k_page_size, {.where = here}).value();
    (void)space_->ioremap(file, k_page_size, 2 * k_page_size, VmProtection::read, {.where = here}).value();
    VmArea* const area =
        space_->get_vm_area(16 * k_page_size, VmKind::sparse, {.name = "table", .where = here}).value();
    ASSERT_TRUE(space_->map_pages(area, plus(area->begin(), 4), plus(area->begin(), 6), std::span{pages}.first(2)));
    (void)space_->get_vm_area(k_page_size, VmKind::map, {.exec = true, .where = here}).value();
    ASSERT_TRUE(space_->vfree(gone));

    std::uint64_t at = 0;
    const std::string site = fmt::format("{}:{}", here.file_name(), here.line());
    const auto line = [&](std::uint64_t area_pages, const std::string& rest) {
        const auto begin = reinterpret_cast<std::uint64_t>(space_->base()) + at * k_page_size;
        at += area_pages;
        return fmt::format("{:#018x}-{:#018x} {:>8} {}\n", begin, begin + area_pages * k_page_size,
                           area_pages * k_page_size, rest);
    };
    std::string expected = line(4, site + " pages=3 vmalloc N0=3");
    expected += line(601, site + " [big] pages=600 vmalloc vpages N0=600");
    expected += line(4, site + " pages=3 vmap user N0=3");
    expected += line(2, "unpurged vm_area");
    expected += line(3, site + " pages=2 phys=0x0000000000001000 ioremap");
    expected += line(17, site + " [table] pages=2 sparse N0=2");
    expected += line(2, site + " vmap exec");
    EXPECT_EQ(space_->vmallocinfo(), expected);
    space_.reset();
    give_pages(pages);
    ::close(file);
}

TEST_F(VmTest, a_child_after_fork_has_a_reservation_and_no_space) {
    void* const at = space_->vmalloc(k_page_size).value();
    const pid_t child = ::fork();
    if (child == 0) {
        const bool right =
            !readable(at) && refused(space_->vmalloc(1), EOWNERDEAD, "the address space") &&
            refused(space_->vfree(at), EOWNERDEAD, "") && refused(space_->purge(), EOWNERDEAD, "") &&
            refused(space_->get_vm_area(1, VmKind::map), EOWNERDEAD, "") &&
            refused(space_->vm_unmap_ram(at, 1), EOWNERDEAD, "") &&
            refused(space_->map_pages(nullptr, at, at, {}), EOWNERDEAD, "") &&
            refused(space_->unmap_pages(nullptr, at, at), EOWNERDEAD, "") && !space_->find_vm_area(at) &&
            space_->areas().empty() && space_->vmallocinfo().empty() && space_->statistics().areas == 0 &&
            test::count_mappings("memfd:harena:") == 0 &&
            ::mmap(at, k_page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED;
        ::_exit(right ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    ASSERT_TRUE(space_->vfree(at));
}

TEST_F(VmTest, what_is_left_in_a_space_goes_with_it) {
    for (int i = 0; i < 10; ++i) (void)space_->vmalloc(3 * k_page_size).value();
    ASSERT_TRUE(space_->vfree(space_->vmalloc(k_page_size).value()));
    std::byte* const base = space_->base();
    space_.reset();
    EXPECT_EQ(pool_->statistics().allocated, PageCount{0});
    EXPECT_FALSE(readable(base));
}

}  // namespace
}  // namespace harena
