// SPDX-License-Identifier: Apache-2.0
//
// Memory of the space's own, and how it goes.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "harena/base/os/fault_injection.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::readable;
using test::refused;
using test::VmTest;
using test::writable;

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

}  // namespace
}  // namespace harena
