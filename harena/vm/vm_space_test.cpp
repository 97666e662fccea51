// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/vm_space.hpp"

#include <sys/socket.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <thread>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/vm/test_support.hpp"
#include "harena/vm/vmallocinfo.hpp"

namespace harena {
namespace {

using test::AtFirst;
using test::readable;
using test::refused;
using test::VmTest;

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
    EXPECT_EQ(space_->vmallocinfo().value(), expected);
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
            refused(space_->areas(), EOWNERDEAD, "") && refused(space_->vmallocinfo(), EOWNERDEAD, "") &&
            space_->statistics().areas == 0 && test::count_mappings("memfd:harena:") == 0 &&
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
