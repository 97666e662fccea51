// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <thread>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {
namespace {

using test::k_free_address;
using test::make_arena;
using test::number;

/// Creation fails with `code`, and the sentence has `part` in it.
void expect_refused(const ArenaOptions& options, int code, std::string_view part) {
    const auto arena = ProcessArena::create(options);
    ASSERT_FALSE(arena);
    EXPECT_EQ(arena.error().code(), code) << arena.error().message();
    EXPECT_NE(arena.error().message().find(part), std::string::npos) << arena.error().message();
    EXPECT_NE(arena.error().message().find("'" + options.name + "'"), std::string::npos) << arena.error().message();
}

ArenaOptions options_of(std::uint64_t pages, std::uint64_t start = 0) {
    return {.name = "made", .pages = PageCount{pages}, .user_vm_start = UserAddress{start}};
}

TEST(ArenaCreation, no_pages_is_EINVAL) { expect_refused(options_of(0), EINVAL, "0 pages"); }

TEST(ArenaCreation, an_unaligned_user_vm_start_is_EINVAL) {
    expect_refused(options_of(1, k_free_address + 1), EINVAL, "not a multiple of the page size");
    expect_refused(options_of(1, k_free_address + 4095), EINVAL, "not a multiple of the page size");
}

TEST(ArenaCreation, more_than_4_gib_is_E2BIG) {
    expect_refused(options_of((1U << 20) + 1), E2BIG, "1048577 pages are more than 4 GiB");
    expect_refused(options_of(5U << 18), E2BIG, "more than 4 GiB");
    expect_refused(options_of(~std::uint64_t{0}), E2BIG, "more than 4 GiB");
    expect_refused(options_of((std::uint64_t{1} << 52) + 1), E2BIG, "more than 4 GiB");
}

TEST(ArenaCreation, a_range_across_a_4_gib_boundary_is_ERANGE) {
    expect_refused(options_of(2, k_free_address + 4 * k_gib - k_page_size), ERANGE, "crosses a 4 GiB boundary");
    expect_refused(options_of(1U << 20, k_free_address + k_page_size), ERANGE, "crosses a 4 GiB boundary");
    expect_refused(options_of(2, ~std::uint64_t{0} - 4095), ERANGE, "crosses a 4 GiB boundary");
}

TEST(ArenaCreation, exactly_4_gib_is_allowed_and_costs_no_memory) {
    const std::uint64_t resident = test::status_kib("VmRSS");
    const auto arena = make_arena(options_of(1U << 20, k_free_address));
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->size(), 4 * k_gib);
    EXPECT_EQ(arena->pages(), Arena::k_max_pages);
    EXPECT_EQ(number(arena->data()), k_free_address);
    EXPECT_EQ(number(arena->window()), k_free_address);
    if (!test::k_sanitized) {
        EXPECT_LT(test::status_kib("VmRSS") - resident, 16 * 1024U);
    }
    for (const std::uint64_t page : {0U, 1U << 19, (1U << 20) - 1}) {
        std::byte* const last = test::page_at(*arena, page) + k_page_size - 1;
        test::byte_at(last) = 7;
        EXPECT_EQ(test::byte_at(last), 7);
    }
    EXPECT_EQ(test::usage(*arena), "3 0");
}

TEST(ArenaCreation, an_arena_of_4_gib_can_be_anywhere) {
    const auto arena = make_arena(1U << 20);
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->user_vm_start().value() % (4 * k_gib), 0U);
}

TEST(ArenaCreation, the_library_chooses_no_address_with_32_zero_bits_if_it_can_be_helped) {
    for (const std::uint64_t pages :
         {std::uint64_t{1}, std::uint64_t{1000}, (4 * k_gib - k_huge_page_size) / k_page_size}) {
        const auto arena = make_arena(pages);
        ASSERT_NE(arena, nullptr);
        EXPECT_NE(static_cast<std::uint32_t>(arena->user_vm_start().value()), 0U);
        EXPECT_EQ(arena->size(), pages * k_page_size);
        test::byte_at(arena->data() + arena->size() - 1) = 1;
    }
}

TEST(ArenaCreation, the_low_32_bits_of_user_vm_start_are_used_as_they_are) {
    const auto arena = make_arena(options_of(1, k_free_address + 4 * k_gib - k_page_size));
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->user_vm_start().value(), k_free_address + 4 * k_gib - k_page_size);
    EXPECT_EQ(number(arena->window()), k_free_address);
    EXPECT_EQ(arena->window() + static_cast<std::uint32_t>(arena->user_vm_start().value()), arena->data());
    test::byte_at(arena->data() + 4095) = 9;
    EXPECT_EQ(test::byte_at(arena->data() + 4095), 9);
}

TEST(ArenaCreation, an_address_taken_by_another_mapping_is_EEXIST_and_names_it) {
    const auto first =
        make_arena({.name = "first", .pages = PageCount{1}, .user_vm_start = UserAddress{k_free_address}});
    ASSERT_NE(first, nullptr);
    // The window is taken even where the other arena is not.
    expect_refused(options_of(1, k_free_address + k_gib), EEXIST, "taken by the mapping");
}

TEST(ArenaCreation, an_address_that_no_window_can_have_is_ENOMEM_and_never_another_address) {
    expect_refused(options_of(1, 0x10000), ENOMEM, "only 0x100000000 to 0x7ffe00000000 can hold a window");
    expect_refused(options_of(1, std::uint64_t{1} << 47), ENOMEM, "can hold a window");
    expect_refused(options_of(1, std::uint64_t{0xffff'8000} << 32), ENOMEM, "can hold a window");
}

TEST(ArenaCreation, gives_memory_address_space_and_descriptors_back) {
    ASSERT_NE(make_arena(1), nullptr) << "what is made once in a process";
    ASSERT_TRUE(VmSpace::process());  // stays
    const std::size_t descriptors = test::open_descriptors();
    for (int turn = 0; turn < 3; ++turn) {
        const auto arena = make_arena(options_of(100, k_free_address));
        ASSERT_NE(arena, nullptr);
        ASSERT_TRUE(arena->alloc_pages(PageCount{50}));
        EXPECT_EQ(test::open_descriptors(), descriptors + 2);
        EXPECT_EQ(test::count_mappings("harena:made"), 2U) << "the arena and its page states";
    }
    EXPECT_EQ(test::open_descriptors(), descriptors);
    EXPECT_EQ(test::count_mappings("harena:made"), 0U);
    EXPECT_FALSE(os::find_mapping(k_free_address - Window::k_guard_below, Window::k_span_bytes));
}

TEST(ArenaCreation, makes_an_area_of_the_process_that_says_how_many_pages_it_has) {
    VmSpace* const space = VmSpace::process().value();
    const auto only_area = [&] {
        const auto areas = space->areas().value();
        EXPECT_EQ(areas.size(), 1U);
        return areas.empty() ? VmAreaInfo{} : areas.front();
    };
    auto arena = make_arena({.name = "listed", .pages = PageCount{16}});
    ASSERT_NE(arena, nullptr);
    const VmAreaInfo area = only_area();
    EXPECT_EQ(area.begin, arena->window());
    EXPECT_EQ(area.bytes, Window::k_bytes);
    EXPECT_EQ(area.guard_below, Window::k_guard_below);
    EXPECT_EQ(area.guard_bytes, Window::k_guard_above);
    EXPECT_EQ(area.kind, VmKind::backed);
    EXPECT_TRUE(area.user);
    EXPECT_EQ(area.name, "listed");
    EXPECT_NE(area.where.find("arena_creation_test.cpp:"), std::string::npos) << area.where;
    EXPECT_EQ(area.pages, 0U);
    ASSERT_TRUE(arena->alloc_pages(PageCount{3}));
    test::byte_at(test::page_at(*arena, 9)) = 1;
    ASSERT_TRUE(arena->reserve_pages(test::page_at(*arena, 12), PageCount{2}));
    EXPECT_EQ(only_area().pages, 4U);
    EXPECT_TRUE(space->find_vm_area(arena->data()));
    arena.reset();
    EXPECT_TRUE(space->areas().value().empty());
}

TEST(ArenaCreation, any_name_will_do) {
    for (const std::string& name : {std::string{}, std::string(5000, 'n'), std::string{"a/b\n%s{}"}}) {
        const auto arena = make_arena({.name = name, .pages = PageCount{1}});
        ASSERT_NE(arena, nullptr);
        EXPECT_EQ(arena->name(), name);
    }
    std::string wide;
    for (int i = 0; i < 300; ++i) wide += "砂";  // three bytes each; the kernel counts bytes
    EXPECT_NE(make_arena({.name = wide, .pages = PageCount{1}}), nullptr);
}

TEST(ArenaCreation, many_arenas_live_beside_each_other) {
    std::vector<std::shared_ptr<ProcessArena>> arenas;
    for (int i = 0; i < 40; ++i) {
        arenas.push_back(make_arena(4));
        ASSERT_NE(arenas.back(), nullptr);
        test::byte_at(arenas.back()->data()) = static_cast<unsigned char>(i);
    }
    for (int i = 0; i < 40; i += 2) arenas[static_cast<std::size_t>(i)].reset();
    for (int i = 1; i < 40; i += 2) {
        ProcessArena& arena = *arenas[static_cast<std::size_t>(i)];
        EXPECT_EQ(test::byte_at(arena.data()), i);
        EXPECT_EQ(test::byte_at(arena.data() + k_page_size), 0);
        EXPECT_EQ(test::usage(arena), "2 0");
    }
}

TEST(ArenaCreation, threads_create_and_destroy_beside_each_other) {
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([] {
            for (int turn = 0; turn < 10; ++turn) {
                const auto arena = make_arena(3);
                ASSERT_NE(arena, nullptr);
                test::byte_at(arena->data()) = 1;
                ASSERT_TRUE(arena->alloc_pages(PageCount{2}));
            }
        });
    for (std::thread& thread : threads) thread.join();
}

class ArenaLimits : public test::FreshProcess {
protected:
    static void set_limit(__rlimit_resource resource, std::uint64_t bytes) {
        const rlimit limit{.rlim_cur = bytes, .rlim_max = bytes};
        ASSERT_EQ(::setrlimit(resource, &limit), 0);
    }
};

TEST_F(ArenaLimits, RLIMIT_FSIZE_is_EFBIG_and_no_signal) {
    expect_holds([] {
        set_limit(RLIMIT_FSIZE, 102 * k_page_size);
        expect_refused(options_of(101), EFBIG, "RLIMIT_FSIZE is 417792");
        const auto arena = make_arena(100);  // and a page of words, and one that says what it is: exactly the limit
        ASSERT_NE(arena, nullptr);
        test::byte_at(arena->data() + arena->size() - 1) = 1;
        ASSERT_TRUE(arena->alloc_pages(PageCount{99}));
    });
}

TEST_F(ArenaLimits, RLIMIT_AS_is_ENOMEM_and_names_the_limit) {
    if (test::k_sanitized) GTEST_SKIP() << "sanitizers need the address space themselves";
    expect_holds([] {
        set_limit(RLIMIT_AS, k_gib);
        expect_refused(options_of(1), ENOMEM, "RLIMIT_AS is 1073741824 bytes");
        expect_refused(options_of(1, k_free_address), ENOMEM, "RLIMIT_AS is 1073741824 bytes");
    });
}

TEST_F(ArenaLimits, RLIMIT_NOFILE_is_EMFILE) {
    if (test::k_sanitized) GTEST_SKIP() << "sanitizers need descriptors themselves";
    expect_holds([] {
        const int next = ::dup(0);
        ASSERT_GE(next, 0);
        ::close(next);
        set_limit(RLIMIT_NOFILE, static_cast<std::uint64_t>(next) + 1);  // for the memfd, not for the userfaultfd
        for (int turn = 0; turn < 3; ++turn) expect_refused(options_of(1), EMFILE, "EMFILE");
    });
}

// A mapping of 4 GiB would be filled at once.
TEST_F(ArenaLimits, mlockall_of_the_future_does_not_fill_the_arena) {
    if (test::k_sanitized) GTEST_SKIP() << "sanitizers' own mappings would be locked";
    // The reservation counts as locked memory, whole: without privilege, the arena cannot be had (a test of its own).
    const auto locked = os::getrlimit(RLIMIT_MEMLOCK);
    if (::geteuid() != 0 && locked && *locked < 8 * k_gib)
        GTEST_SKIP() << "not root, and RLIMIT_MEMLOCK is " << *locked;
    expect_holds([] {
        ASSERT_EQ(::mlockall(MCL_CURRENT | MCL_FUTURE), 0);
        const auto arena = make_arena(1U << 20);
        ASSERT_NE(arena, nullptr);
        EXPECT_LT(test::status_kib("VmRSS"), 256 * 1024U);
        EXPECT_EQ(test::usage(*arena), "0 0");
        test::byte_at(arena->data()) = 1;
        ASSERT_TRUE(arena->alloc_pages(PageCount{10}));
        EXPECT_EQ(test::usage(*arena), "11 0");
    });
}

TEST_F(ArenaLimits, mlockall_of_the_present_does_not_fill_the_arena) {
    if (test::k_sanitized) GTEST_SKIP() << "sanitizers' own mappings would be locked";
    expect_holds([] {
        const auto arena = make_arena(1U << 20);
        ASSERT_NE(arena, nullptr);
        (void)::mlockall(MCL_CURRENT);
        EXPECT_LT(test::status_kib("VmRSS"), 256 * 1024U);
        test::byte_at(arena->data()) = 1;
        ASSERT_TRUE(arena->alloc_pages(PageCount{10}));
        EXPECT_EQ(test::usage(*arena), "11 0");
        EXPECT_EQ(test::byte_at(arena->data() + 100 * k_page_size), 0);
        EXPECT_EQ(test::usage(*arena), "12 0");
    });
}

}  // namespace
}  // namespace harena
