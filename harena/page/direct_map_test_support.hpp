// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "harena/page/direct_map.hpp"
#include "harena/page/test_support.hpp"

namespace harena::test {

constexpr Order order(unsigned k) { return Order{static_cast<std::uint8_t>(k)}; }
/// The first page of a pageblock.
constexpr Pfn block(std::uint32_t index) { return Pfn{index * k_pageblock_pages}; }

inline std::unique_ptr<DirectMap> make_map(std::uint64_t pageblocks, bool collapse = false, bool hugetlb = false) {
    return value_or_null(DirectMap::create(
        {.capacity = PageCount{pageblocks * k_pageblock_pages}, .hugetlb = hugetlb, .collapse = collapse}));
}

enum class Seen : std::uint8_t { readable, reserved, hole };

/// What the process has at an address. Asks the kernel, so that nothing traps: write(2) says EFAULT for what it cannot
/// read, and a mapping that does not replace anything says EEXIST for what is not a hole.
inline Seen seen_at(const std::byte* page) {
    std::array<int, 2> ends{-1, -1};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const bool readable = ::write(ends[1], page, 1) == 1;
    EXPECT_TRUE(readable || errno == EFAULT);
    ::close(ends[0]);
    ::close(ends[1]);
    if (readable) return Seen::readable;
    void* const at = const_cast<std::byte*>(page);
    void* const placed =
        ::mmap(at, k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (placed == MAP_FAILED) {
        EXPECT_EQ(errno, EEXIST);
        return Seen::reserved;
    }
    ::munmap(placed, k_page_size);
    return Seen::hole;
}

/// Bytes of memory that a file has.
inline std::uint64_t file_memory(int fd) {
    struct stat status{};
    EXPECT_EQ(::fstat(fd, &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

/// A map of 4 pageblocks, the first two of which are mapped.
class DirectMapTest : public ::testing::Test {
protected:
    void SetUp() override {
        map_ = make_map(4);
        ASSERT_NE(map_, nullptr);
        ASSERT_TRUE(ok(map_->grow(block(0))));
        ASSERT_TRUE(ok(map_->grow(block(1))));
    }

    [[nodiscard]] std::byte* at(std::uint32_t pfn) const { return map_->address(Pfn{pfn}); }
    /// Writes a byte of its own to each of some pages.
    void mark(std::uint32_t first, std::uint32_t pages) {
        for (std::uint32_t i = first; i < first + pages; ++i) std::memset(at(i), static_cast<int>(i % 255 + 1), 4096);
    }
    [[nodiscard]] bool marked(std::uint32_t first, std::uint32_t pages) const {
        for (std::uint32_t i = first; i < first + pages; ++i)
            for (std::size_t j = 0; j < k_page_size; ++j)
                if (at(i)[j] != std::byte{static_cast<unsigned char>(i % 255 + 1)}) return false;
        return true;
    }
    [[nodiscard]] DirectMapStatistics statistics() const {
        const auto statistics = map_->statistics();
        EXPECT_TRUE(statistics);
        return statistics ? *statistics : DirectMapStatistics{};
    }

    std::unique_ptr<DirectMap> map_;
};

}  // namespace harena::test
