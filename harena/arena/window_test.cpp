// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/window.hpp"

#include <sys/resource.h>

#include <cerrno>

#include "harena/arena/test_support.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {
namespace {

using test::k_free_address;
using test::number;

std::string mapping_at(const std::byte* address) { return os::find_mapping(number(address), 1).value_or("(none)"); }

TEST(Window, is_aligned_to_its_size_and_closed_with_both_guards) {
    const auto window = Window::reserve(std::nullopt);
    ASSERT_TRUE(window) << window.error().message();
    EXPECT_EQ(number(window->base()) % (4 * k_gib), 0U);
    EXPECT_EQ(window->span_begin(), window->base() - 32 * k_kib);
    EXPECT_EQ(Window::k_span_bytes, 4 * k_gib + 68 * k_kib);
    for (const std::byte* address :
         {window->span_begin(), window->base(), window->span_begin() + Window::k_span_bytes - 1})
        EXPECT_NE(mapping_at(address).find(" ---p "), std::string::npos) << mapping_at(address);
}

TEST(Window, goes_where_it_is_asked_to_go_and_leaves_nothing_behind) {
    {
        const auto window = Window::reserve(k_free_address);
        ASSERT_TRUE(window) << window.error().message();
        EXPECT_EQ(number(window->base()), k_free_address);
    }
    EXPECT_FALSE(os::find_mapping(k_free_address - Window::k_guard_below, Window::k_span_bytes));
    EXPECT_TRUE(Window::reserve(k_free_address));
}

TEST(Window, anywhere_gives_back_what_it_needed_to_search) {
    auto first = Window::reserve(std::nullopt);
    ASSERT_TRUE(first);
    const std::uint64_t size_with_one = test::status_kib("VmSize");
    auto second = Window::reserve(std::nullopt);
    ASSERT_TRUE(second);
    EXPECT_LE(test::status_kib("VmSize") - size_with_one, Window::k_span_bytes / k_kib + 1024);
}

TEST(Window, moves) {
    auto window = Window::reserve(k_free_address);
    ASSERT_TRUE(window);
    Window moved = std::move(*window);
    EXPECT_EQ(number(moved.base()), k_free_address);
    auto other = Window::reserve(k_free_address + 16 * k_gib);
    ASSERT_TRUE(other);
    moved = std::move(*other);
    EXPECT_EQ(number(moved.base()), k_free_address + 16 * k_gib);
}

class OccupiedWindow : public ::testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Places, OccupiedWindow,
                         ::testing::Values(-32768, 0, 2'147'483'648, 4'294'963'200, 4'294'967'296 + 32768));

TEST_P(OccupiedWindow, is_EEXIST_and_names_the_mapping_in_the_way) {
    const auto file = os::memfd_create("in-the-way");
    ASSERT_TRUE(file);
    ASSERT_TRUE(os::ftruncate(file->get(), k_page_size));
    auto* const at = reinterpret_cast<void*>(k_free_address + static_cast<std::uint64_t>(GetParam()));
    ASSERT_TRUE(os::mmap(at, k_page_size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, file->get(), 0));
    const auto window = Window::reserve(k_free_address);
    EXPECT_TRUE(os::munmap(at, k_page_size));
    ASSERT_FALSE(window);
    EXPECT_EQ(window.error().code(), EEXIST);
    EXPECT_NE(window.error().message().find("in-the-way"), std::string::npos) << window.error().message();
}

TEST(Window, addresses_outside_user_space_are_ENOMEM_and_not_silently_another) {
    for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{0x7fff} << 32, std::uint64_t{1} << 47,
                                     std::uint64_t{1} << 63, ~std::uint64_t{0} << 32}) {
        const auto window = Window::reserve(base);
        ASSERT_FALSE(window) << base;
        EXPECT_EQ(window.error().code(), ENOMEM) << base;
    }
}

class WindowLimits : public test::FreshProcess {};

TEST_F(WindowLimits, RLIMIT_AS_is_named_in_the_error) {
    if (test::k_sanitized) GTEST_SKIP() << "sanitizers need the address space themselves";
    expect_holds([] {
        const rlimit limit{.rlim_cur = 1 * k_gib, .rlim_max = 1 * k_gib};
        ASSERT_EQ(::setrlimit(RLIMIT_AS, &limit), 0);
        const std::array<std::optional<std::uint64_t>, 2> places{std::nullopt, k_free_address};
        for (const auto base : places) {
            const auto window = Window::reserve(base);
            ASSERT_FALSE(window);
            EXPECT_EQ(window.error().code(), ENOMEM);
            EXPECT_NE(window.error().message().find("RLIMIT_AS is 1073741824"), std::string::npos)
                << window.error().message();
        }
    });
}

}  // namespace
}  // namespace harena
