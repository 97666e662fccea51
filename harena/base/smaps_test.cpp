// SPDX-License-Identifier: Apache-2.0
#include "harena/base/smaps.hpp"

#include <sys/mman.h>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/test_support.hpp"

namespace harena {
namespace {

TEST(MappedBytes, counts_mappings_and_pages_of_a_range_and_no_others) {
    constexpr std::size_t k_pages = 16;
    auto* const at = static_cast<std::byte*>(
        ::mmap(nullptr, k_pages * k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(at, MAP_FAILED);
    EXPECT_EQ(mapped_bytes(at, k_pages * k_page_size).value().bytes_4k, 0U);
    for (const std::size_t page : {0U, 5U, 15U}) at[page * k_page_size] = std::byte{1};
    const MappedBytes touched = mapped_bytes(at, k_pages * k_page_size).value();
    EXPECT_EQ(touched.vmas, 1U);
    EXPECT_EQ(touched.bytes_4k, 3 * k_page_size);
    EXPECT_EQ(touched.bytes_2m, 0U);
    ASSERT_EQ(::mprotect(at + 4 * k_page_size, 4 * k_page_size, PROT_READ), 0);
    EXPECT_EQ(mapped_bytes(at, k_pages * k_page_size).value().vmas, 3U);
    EXPECT_EQ(mapped_bytes(at + 4 * k_page_size, 4 * k_page_size).value().vmas, 1U);
    EXPECT_EQ(mapped_bytes(at + 4 * k_page_size, 4 * k_page_size).value().bytes_4k, k_page_size);
    ASSERT_EQ(::munmap(at, k_pages * k_page_size), 0);
    EXPECT_EQ(mapped_bytes(at, k_pages * k_page_size).value().vmas, 0U);
}

TEST(MappedBytes, without_proc_is_an_error) {
    os::FailCall injector{os::Call::open, ENOENT};
    const os::ScopedFaultInjector scope{injector};
    EXPECT_TRUE(test::refused(mapped_bytes(nullptr, k_page_size), ENOENT, "/proc/self/smaps"));
}

}  // namespace
}  // namespace harena
