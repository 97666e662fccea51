// SPDX-License-Identifier: Apache-2.0
#include "harena/page/direct_map.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/page/test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::holds_in_child;
using test::is_zero;
using test::ok;

constexpr Order order(unsigned k) { return Order{static_cast<std::uint8_t>(k)}; }
/// The first page of a pageblock.
constexpr Pfn block(std::uint32_t index) { return Pfn{index * k_pageblock_pages}; }

std::unique_ptr<DirectMap> make_map(std::uint64_t pageblocks, bool collapse = false, bool hugetlb = false) {
    return test::value_or_null(DirectMap::create(
        {.capacity = PageCount{pageblocks * k_pageblock_pages}, .hugetlb = hugetlb, .collapse = collapse}));
}

void expect_refused(const Result<std::unique_ptr<DirectMap>>& map, int code, std::string_view part) {
    ASSERT_FALSE(map);
    EXPECT_EQ(map.error().code(), code) << map.error().message();
    EXPECT_NE(map.error().message().find(part), std::string::npos) << map.error().message();
}

enum class Seen : std::uint8_t { readable, reserved, hole };

/// What the process has at an address. Asks the kernel, so that nothing traps: write(2) says EFAULT for what it cannot
/// read, and a mapping that does not replace anything says EEXIST for what is not a hole.
Seen seen_at(const std::byte* page) {
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
std::uint64_t file_memory(int fd) {
    struct stat status{};
    EXPECT_EQ(::fstat(fd, &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

std::byte file_byte(const DirectMap& map, Pfn pfn) {
    std::byte value{0xee};
    EXPECT_EQ(::pread(map.fd(), &value, 1, static_cast<off_t>(byte_offset(pfn))), 1);
    return value;
}

TEST(DirectMapCreation, a_capacity_that_is_no_multiple_of_a_pageblock_is_EINVAL) {
    for (const std::uint64_t pages : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{511}, std::uint64_t{513},
                                      k_max_pages + 512, (std::uint64_t{1} << 52) + 512, ~std::uint64_t{0}})
        expect_refused(DirectMap::create({.capacity = PageCount{pages}}), EINVAL,
                       "a pool of " + std::to_string(pages) + " pages: it takes a multiple of 512");
}

TEST(DirectMapCreation, a_file_beyond_RLIMIT_FSIZE_is_EFBIG_and_does_not_kill) {
    EXPECT_TRUE(holds_in_child([] {
        const rlimit limit{.rlim_cur = k_huge_page_size, .rlim_max = k_huge_page_size};
        ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
        EXPECT_NE(make_map(1), nullptr) << "exactly at the limit";
        expect_refused(DirectMap::create({.capacity = PageCount{1024}}), EFBIG, "RLIMIT_FSIZE is 2097152");
    }));
}

TEST(DirectMapCreation, addresses_beyond_RLIMIT_AS_are_ENOMEM_and_the_limit_is_named) {
    EXPECT_TRUE(holds_in_child([] {
        const auto file = os::read_file("/proc/self/statm");
        ASSERT_TRUE(file);
        const std::string text{reinterpret_cast<const char*>(file->data()), file->size()};
        const rlim_t allowed = std::strtoull(text.c_str(), nullptr, 10) * k_page_size + 256 * k_mib;
        const rlimit limit{.rlim_cur = allowed, .rlim_max = allowed};
        ASSERT_EQ(::setrlimit(RLIMIT_AS, &limit), 0);
        const std::size_t descriptors = test::open_descriptors();
        expect_refused(DirectMap::create({.capacity = pages_for(k_gib)}), ENOMEM,
                       "RLIMIT_AS (" + std::to_string(allowed) + ")");
        EXPECT_EQ(test::open_descriptors(), descriptors);
        EXPECT_NE(make_map(1), nullptr) << "what the limit allows";
    }));
}

TEST(DirectMapCreation, reserves_the_addresses_and_has_no_page_and_no_memory) {
    const std::size_t descriptors = test::open_descriptors();
    {
        const auto map = make_map(3);
        ASSERT_NE(map, nullptr);
        EXPECT_TRUE(is_aligned(reinterpret_cast<std::uint64_t>(map->base()), k_huge_page_size));
        for (const std::uint32_t pfn : {0U, 511U, 512U, 1535U}) {
            EXPECT_EQ(map->address(Pfn{pfn}), map->base() + std::size_t{pfn} * 4096);
            EXPECT_EQ(seen_at(map->address(Pfn{pfn})), Seen::reserved) << pfn;
        }
        EXPECT_EQ(file_memory(map->fd()), 0U);
        EXPECT_EQ(test::open_descriptors(), descriptors + 1);
        EXPECT_NE(::ftruncate(map->fd(), 0), 0) << "nobody shrinks the file under the mappings";
    }
    EXPECT_EQ(test::open_descriptors(), descriptors);
    EXPECT_EQ(test::count_mappings("harena:pages"), 0U);
}

TEST(DirectMapCreation, of_1_tib_costs_no_memory) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers need the address space themselves";
    const auto map = make_map(k_max_pages / k_pageblock_pages);
    ASSERT_NE(map, nullptr);
    const Pfn last = block(static_cast<std::uint32_t>(k_max_pages / k_pageblock_pages - 1));
    ASSERT_TRUE(ok(map->grow(last)));
    *map->address(last) = std::byte{1};
    EXPECT_EQ(file_memory(map->fd()), k_page_size);
    EXPECT_EQ(file_byte(*map, last), std::byte{1});
}

struct Failing {
    Call call;
    int error;
    bool tolerated;  // whether the map can do without
};

class DirectMapCreationFails : public ::testing::TestWithParam<Failing> {};
INSTANTIATE_TEST_SUITE_P(Calls, DirectMapCreationFails,
                         ::testing::Values(Failing{Call::getrlimit, EFAULT, true},
                                           Failing{Call::memfd_create, EMFILE, false},
                                           Failing{Call::ftruncate, ENOSPC, false},
                                           Failing{Call::add_seals, EPERM, false}, Failing{Call::mmap, ENOMEM, false},
                                           Failing{Call::madvise, EINVAL, false}));

// At each place where the call is made.
TEST_P(DirectMapCreationFails, with_a_message_and_leaves_nothing_behind) {
    const auto [call, error, tolerated] = GetParam();
    make_map(2);  // what is done once for the process is done
    const std::size_t descriptors = test::open_descriptors();
    const std::size_t mappings = test::count_mappings("");
    std::uint64_t places = 0;
    for (;; ++places) {
        FailCall injector{call, error, places};
        {
            const ScopedFaultInjector scope{injector};
            const auto map = DirectMap::create({.capacity = PageCount{1024}});
            if (injector.seen() <= places) {
                EXPECT_TRUE(map);
                break;
            }
            EXPECT_EQ(map.has_value(), tolerated) << places;
            if (!map) {
                EXPECT_EQ(map.error().code(), error);
                EXPECT_GT(map.error().message().size(), 20U);
            }
        }
        EXPECT_EQ(test::open_descriptors(), descriptors) << places;
        EXPECT_EQ(test::count_mappings("harena:"), 0U) << places;
        if (!test::k_sanitizer) {
            EXPECT_EQ(test::count_mappings(""), mappings) << places;
        }
    }
    EXPECT_GT(places, 0U) << "the call is made at all";
}

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

TEST_F(DirectMapTest, growth_maps_zero_bytes_and_only_there) {
    EXPECT_TRUE(is_zero(at(0), 2 * k_huge_page_size));
    mark(0, 1024);
    EXPECT_TRUE(marked(0, 1024));
    EXPECT_EQ(seen_at(at(1024)), Seen::reserved);
    ASSERT_TRUE(ok(map_->grow(block(3))));
    EXPECT_EQ(seen_at(at(1535)), Seen::reserved);
    EXPECT_TRUE(is_zero(at(1536), k_huge_page_size));
    EXPECT_TRUE(marked(0, 1024));
}

TEST_F(DirectMapTest, a_page_is_at_its_number_times_4096_of_the_file) {
    mark(0, 1024);
    for (const std::uint32_t pfn : {0U, 1U, 511U, 512U, 1023U})
        EXPECT_EQ(file_byte(*map_, Pfn{pfn}), std::byte{static_cast<unsigned char>(pfn % 255 + 1)}) << pfn;
}

TEST_F(DirectMapTest, an_unmapped_block_is_a_reservation_that_nobody_reads_and_no_mapping_takes) {
    mark(0, 1024);
    for (unsigned k = 0; k <= 10; ++k) {
        const std::uint32_t first = k == 10 ? 0 : pages_of(order(k));
        const std::uint32_t end = first + pages_of(order(k));
        ASSERT_TRUE(ok(map_->unmap(Pfn{first}, order(k))));
        EXPECT_EQ(seen_at(at(first)), Seen::reserved) << k;
        EXPECT_EQ(seen_at(at(end - 1)), Seen::reserved) << k;
        EXPECT_TRUE(first == 0 || seen_at(at(first - 1)) == Seen::readable) << k;
        EXPECT_TRUE(end == 1024 || seen_at(at(end)) == Seen::readable) << k;
        ASSERT_TRUE(ok(map_->restore(Pfn{first}, order(k))));
        ASSERT_TRUE(marked(0, 1024)) << "the same contents are back: " << k;
    }
}

TEST_F(DirectMapTest, an_unmapped_page_is_not_in_proc_self_mem_either) {
    mark(5, 1);
    const int memory = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    ASSERT_GE(memory, 0);
    const auto secret = [&] {
        std::byte value{};
        const auto offset = static_cast<off_t>(reinterpret_cast<std::uint64_t>(at(5)));
        return ::pread(memory, &value, 1, offset) == 1 && value == std::byte{6};
    };
    EXPECT_TRUE(secret());
    ASSERT_TRUE(ok(map_->unmap(Pfn{5}, Order{})));
    EXPECT_FALSE(secret());
    ::close(memory);
}

TEST_F(DirectMapTest, parts_of_what_was_unmapped_can_be_restored) {
    mark(0, 512);
    ASSERT_TRUE(ok(map_->unmap(Pfn{0}, k_pageblock_order)));
    for (std::uint32_t i = 0; i < 512; i += 128) ASSERT_TRUE(ok(map_->restore(Pfn{i}, order(6))));
    for (std::uint32_t i = 0; i < 512; i += 64)
        EXPECT_EQ(seen_at(at(i)), i % 128 == 0 ? Seen::readable : Seen::reserved) << i;
    for (std::uint32_t i = 64; i < 512; i += 128) ASSERT_TRUE(ok(map_->restore(Pfn{i}, order(6))));
    EXPECT_TRUE(marked(0, 512));
}

TEST_F(DirectMapTest, pages_without_an_address_are_zeroed_through_the_file_and_no_others) {
    mark(0, 1024);
    ASSERT_TRUE(ok(map_->unmap(Pfn{0}, k_max_order)));
    ASSERT_TRUE(ok(map_->zero(Pfn{3}, 1)));
    ASSERT_TRUE(ok(map_->zero(Pfn{7}, 1009)));  // more than one call
    ASSERT_TRUE(ok(map_->zero(Pfn{1020}, 0)));
    EXPECT_EQ(seen_at(at(7)), Seen::reserved);
    ASSERT_TRUE(ok(map_->restore(Pfn{0}, k_max_order)));
    EXPECT_TRUE(marked(0, 3));
    EXPECT_TRUE(is_zero(at(3), k_page_size));
    EXPECT_TRUE(marked(4, 3));
    EXPECT_TRUE(is_zero(at(7), 1009 * k_page_size));
    EXPECT_TRUE(marked(1016, 8));
}

TEST_F(DirectMapTest, what_is_given_back_is_the_systems_memory_again_and_returns_as_zero_bytes) {
    mark(0, 1024);
    EXPECT_EQ(file_memory(map_->fd()), 2 * k_huge_page_size);
    ASSERT_TRUE(ok(map_->give_back(block(0))));
    EXPECT_EQ(file_memory(map_->fd()), k_huge_page_size);
    EXPECT_EQ(seen_at(at(0)), Seen::reserved);
    EXPECT_EQ(seen_at(at(511)), Seen::reserved);
    EXPECT_TRUE(marked(512, 512));
    ASSERT_TRUE(ok(map_->grow(block(0))));
    EXPECT_TRUE(is_zero(at(0), k_huge_page_size));
    EXPECT_TRUE(marked(512, 512));
}

TEST_F(DirectMapTest, a_child_after_fork_has_a_reservation_in_its_place) {
    mark(0, 1024);
    ASSERT_TRUE(ok(map_->unmap(Pfn{8}, Order{})));
    ASSERT_TRUE(ok(map_->unmap(Pfn{16}, Order{})));
    ASSERT_TRUE(ok(map_->restore(Pfn{16}, Order{})));
    EXPECT_TRUE(holds_in_child([&] {
        for (const std::uint32_t pfn : {0U, 8U, 9U, 16U, 1023U, 1024U, 2047U})
            EXPECT_EQ(seen_at(at(pfn)), Seen::reserved) << pfn;
        map_.reset();  // and it can be destroyed there
    }));
    EXPECT_TRUE(marked(0, 8));
    EXPECT_EQ(seen_at(at(8)), Seen::reserved);
    EXPECT_TRUE(marked(9, 1015));
}

TEST_F(DirectMapTest, a_raw_clone_does_not_see_a_page_either) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers do not know of such children";
    mark(0, 1024);
    ASSERT_TRUE(ok(map_->unmap(Pfn{16}, Order{})));
    ASSERT_TRUE(ok(map_->restore(Pfn{16}, Order{})));
    std::array<int, 2> ends{-1, -1};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const long child = ::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
    if (child == 0) {
        int readable = 0;
        for (const std::uint32_t pfn : {0U, 16U, 1023U}) readable += ::write(ends[1], at(pfn), 1) == 1 ? 1 : 0;
        ::_exit(readable);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(static_cast<pid_t>(child), &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0) << "pages that it could read";
    ::close(ends[0]);
    ::close(ends[1]);
}

TEST_F(DirectMapTest, statistics_count_mappings_and_the_bytes_that_have_page_table_entries) {
    EXPECT_EQ(statistics().vmas, 2U) << "two pageblocks, one mapping; and the reservation";
    EXPECT_EQ(statistics().bytes_4k, 0U) << "nothing was touched";
    for (const std::uint32_t pfn : {0U, 7U, 600U}) *at(pfn) = std::byte{1};
    EXPECT_EQ(statistics().bytes_4k, 3 * k_page_size);
    EXPECT_EQ(statistics().bytes_2m, 0U);
    ASSERT_TRUE(ok(map_->unmap(Pfn{7}, Order{})));
    EXPECT_EQ(statistics().vmas, 4U);
    EXPECT_EQ(statistics().bytes_4k, 2 * k_page_size);
    ASSERT_TRUE(ok(map_->unmap(Pfn{6}, Order{})));
    EXPECT_EQ(statistics().vmas, 4U) << "adjoining ones are one";
    ASSERT_TRUE(ok(map_->restore(Pfn{6}, order(1))));
    EXPECT_EQ(statistics().vmas, 2U);
    ASSERT_TRUE(ok(map_->give_back(block(1))));
    EXPECT_EQ(statistics().vmas, 2U);
    EXPECT_EQ(statistics().bytes_4k, k_page_size);
    map_->count_split();
    map_->count_split();
    map_->count_merge();
    EXPECT_EQ(statistics().splits, 2U);
    EXPECT_EQ(statistics().merges, 1U);
    EXPECT_EQ(statistics().collapsed + statistics().not_collapsed, 0U) << "that is switched off";
}

TEST_F(DirectMapTest, statistics_are_those_of_one_map) {
    const auto other = make_map(4);
    ASSERT_NE(other, nullptr);
    ASSERT_TRUE(ok(other->grow(block(0))));
    *other->base() = std::byte{1};
    EXPECT_EQ(statistics().bytes_4k, 0U);
    EXPECT_EQ(statistics().vmas, 2U);
    EXPECT_EQ(other->statistics()->bytes_4k, k_page_size);
}

TEST_F(DirectMapTest, statistics_count_a_reservation_that_the_kernel_joined_with_a_neighbour) {
    const auto map = make_map(2);
    ASSERT_NE(map, nullptr);
    std::byte* const below = map->base() - k_page_size;
    void* const placed =
        ::mmap(below, k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (placed == MAP_FAILED) GTEST_SKIP() << "something else is mapped below";
    ASSERT_EQ(::madvise(below, k_page_size, MADV_DONTFORK), 0);  // as the map's
    EXPECT_EQ(map->statistics()->vmas, 1U);
    ::munmap(below, k_page_size);
}

class DirectMapCollapse : public ::testing::Test {
protected:
    void SetUp() override {
        map_ = make_map(2, true);
        ASSERT_NE(map_, nullptr);
        ASSERT_TRUE(ok(map_->grow(block(0))));
        const auto statistics = map_->statistics();
        ASSERT_TRUE(statistics);
        EXPECT_EQ(statistics->collapsed + statistics->not_collapsed, 1U);
        EXPECT_TRUE(is_zero(map_->base(), k_huge_page_size)) << "either way";
        if (statistics->collapsed == 0) GTEST_SKIP() << "this machine did not give a 2 MiB page";
    }
    std::unique_ptr<DirectMap> map_;
};

TEST_F(DirectMapCollapse, a_touched_pageblock_has_one_2_mib_page_table_entry) {
    *map_->base() = std::byte{1};
    auto statistics = map_->statistics();
    EXPECT_EQ(statistics->bytes_2m, k_huge_page_size);
    EXPECT_EQ(statistics->bytes_4k, 0U);
    EXPECT_EQ(file_memory(map_->fd()), k_huge_page_size);
    EXPECT_TRUE(is_zero(map_->base() + 1, k_huge_page_size - 1));
}

TEST_F(DirectMapCollapse, a_pageblock_that_left_whole_has_its_2_mib_entry_again_when_it_is_back) {
    *map_->base() = std::byte{1};
    ASSERT_TRUE(ok(map_->unmap(block(0), k_pageblock_order)));
    EXPECT_EQ(map_->statistics()->bytes_2m, 0U);
    ASSERT_TRUE(ok(map_->restore(block(0), k_pageblock_order)));
    EXPECT_EQ(*map_->base(), std::byte{1});
    EXPECT_EQ(map_->statistics()->bytes_2m, k_huge_page_size);
}

TEST_F(DirectMapCollapse, a_pageblock_without_one_of_its_pages_has_4_kib_entries) {
    *map_->base() = std::byte{1};
    ASSERT_TRUE(ok(map_->unmap(Pfn{3}, Order{})));
    *map_->address(Pfn{9}) = std::byte{1};
    const auto statistics = map_->statistics();
    EXPECT_EQ(statistics->bytes_2m, 0U);
    EXPECT_GE(statistics->bytes_4k, k_page_size);
    EXPECT_LE(statistics->bytes_4k, 511 * k_page_size);
}

class DirectMapFails : public DirectMapTest {
protected:
    void SetUp() override {
        DirectMapTest::SetUp();
        mark(0, 1024);
    }
    void TearDown() override {
        EXPECT_TRUE(marked(512, 512)) << "what nothing was done to";
        EXPECT_EQ(seen_at(at(1536)), Seen::reserved);
    }
    static void expect_enomem(const Result<void>& result) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code(), ENOMEM) << result.error().message();
        EXPECT_GT(result.error().message().size(), 20U);
    }
};

TEST_F(DirectMapFails, growth_without_a_mapping_is_ENOMEM_and_nothing_is_mapped) {
    {
        FailCall failing{Call::mmap, ENOMEM};
        const ScopedFaultInjector injected{failing};
        const auto grown = map_->grow(block(2));
        expect_enomem(grown);
        EXPECT_NE(grown.error().message().find("vm.max_map_count"), std::string::npos) << grown.error().message();
    }
    EXPECT_EQ(seen_at(at(1024)), Seen::reserved);
    EXPECT_TRUE(ok(map_->grow(block(2))));
    EXPECT_TRUE(is_zero(at(1024), k_huge_page_size));
}

// Advice is what it is called, except that memory must be there.
TEST_F(DirectMapFails, growth_tolerates_refused_advice_and_not_the_want_of_memory) {
    int failures = 0;
    for (const int error : {ENOMEM, EINVAL, EAGAIN}) {
        for (std::uint64_t place = 0;; ++place) {
            const auto map = make_map(1, true);
            ASSERT_NE(map, nullptr);
            FailCall failing{Call::madvise, error, place};
            const ScopedFaultInjector injected{failing};
            const auto grown = map->grow(block(0));
            if (failing.seen() <= place) break;
            if (grown) {
                EXPECT_TRUE(is_zero(map->base(), k_huge_page_size)) << error << " " << place;
            } else {
                ++failures;
                EXPECT_EQ(grown.error().code(), ENOMEM);
                EXPECT_EQ(seen_at(map->base()), Seen::reserved) << error << " " << place;
                EXPECT_EQ(map->statistics()->vmas, 1U);
                EXPECT_EQ(file_memory(map->fd()), 0U);
            }
        }
    }
    EXPECT_EQ(failures, 2) << "only where memory is asked for, and EINVAL is a kernel that does not know how";
}

TEST_F(DirectMapFails, a_pageblock_that_cannot_be_collapsed_is_counted_and_works) {
    const auto map = make_map(1, true);
    ASSERT_NE(map, nullptr);
    {
        FailCall failing{Call::madvise, EINVAL, 1, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        ASSERT_TRUE(ok(map->grow(block(0))));
    }
    EXPECT_EQ(map->statistics()->collapsed, 0U);
    EXPECT_EQ(map->statistics()->not_collapsed, 1U);
    EXPECT_TRUE(is_zero(map->base(), k_huge_page_size));
}

TEST_F(DirectMapFails, growth_on_a_node_that_cannot_be_had_succeeds_anywhere) {
    FailCall failing{Call::mbind, EINVAL};
    const ScopedFaultInjector injected{failing};
    EXPECT_TRUE(ok(map_->grow(block(2), 1)));
    EXPECT_EQ(failing.seen(), 1U);
    EXPECT_TRUE(is_zero(at(1024), k_huge_page_size));
}

TEST_F(DirectMapFails, giving_back_fails_at_either_call_and_the_pageblock_is_mapped) {
    {
        FailCall failing{Call::fallocate, ENOMEM};
        const ScopedFaultInjector injected{failing};
        expect_enomem(map_->give_back(block(0)));
        EXPECT_TRUE(marked(0, 512));
        EXPECT_EQ(file_memory(map_->fd()), 2 * k_huge_page_size);
    }
    {
        FailCall failing{Call::mmap, ENOMEM};
        const ScopedFaultInjector injected{failing};
        expect_enomem(map_->give_back(block(0)));
        EXPECT_EQ(file_memory(map_->fd()), k_huge_page_size);  // its memory had gone already
        EXPECT_TRUE(is_zero(at(0), k_huge_page_size));
    }
    EXPECT_TRUE(ok(map_->give_back(block(0))));
    EXPECT_EQ(file_memory(map_->fd()), k_huge_page_size);
}

TEST_F(DirectMapFails, unmapping_fails_and_the_pages_are_as_they_were) {
    for (unsigned k = 0; k <= 9; ++k) {
        FailCall failing{Call::mmap, ENOMEM};
        const ScopedFaultInjector injected{failing};
        const auto gone = map_->unmap(Pfn{0}, order(k));
        expect_enomem(gone);
        EXPECT_NE(gone.error().message().find("vm.max_map_count"), std::string::npos) << gone.error().message();
        ASSERT_TRUE(marked(0, 512));
    }
    *at(0) = *at(0);
}

TEST_F(DirectMapFails, restoring_fails_and_the_pages_stay_without_an_address) {
    ASSERT_TRUE(ok(map_->unmap(Pfn{0}, order(4))));
    {
        FailCall failing{Call::mmap, ENOMEM};
        const ScopedFaultInjector injected{failing};
        expect_enomem(map_->restore(Pfn{0}, order(4)));
    }
    EXPECT_EQ(seen_at(at(0)), Seen::reserved);
    EXPECT_EQ(seen_at(at(15)), Seen::reserved);
    EXPECT_TRUE(ok(map_->restore(Pfn{0}, order(4))));
    EXPECT_TRUE(marked(0, 512));
}

TEST_F(DirectMapFails, advice_that_is_refused_harms_neither_unmapping_nor_restoring) {
    FailCall failing{Call::madvise, EINVAL, 0, FailCall::Repeat::always};
    const ScopedFaultInjector injected{failing};
    ASSERT_TRUE(ok(map_->unmap(Pfn{8}, order(3))));
    EXPECT_EQ(seen_at(at(8)), Seen::reserved);
    ASSERT_TRUE(ok(map_->restore(Pfn{8}, order(3))));
    EXPECT_TRUE(marked(0, 512));
}

TEST_F(DirectMapFails, zeroing_goes_on_after_a_signal_and_reports_everything_else) {
    {
        FailCall interrupted{Call::pwrite, EINTR};
        const ScopedFaultInjector injected{interrupted};
        EXPECT_TRUE(ok(map_->zero(Pfn{0}, 2)));
        EXPECT_TRUE(is_zero(at(0), 2 * k_page_size));
    }
    FailCall failing{Call::pwrite, ENOMEM};
    const ScopedFaultInjector injected{failing};
    expect_enomem(map_->zero(Pfn{2}, 2));
    EXPECT_TRUE(marked(2, 510));
}

TEST_F(DirectMapFails, at_the_systems_limit_of_mappings_nothing_is_lost) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers need mappings themselves";
    const auto file = os::read_file("/proc/sys/vm/max_map_count");
    ASSERT_TRUE(file);
    const std::string text{reinterpret_cast<const char*>(file->data()), file->size()};
    const std::size_t most = std::strtoull(text.c_str(), nullptr, 10);
    if (most > 300'000) GTEST_SKIP() << "vm.max_map_count is " << most << ": that many would take long";
    EXPECT_TRUE(holds_in_child([&] {
        map_ = make_map(4);
        ASSERT_NE(map_, nullptr);
        ASSERT_TRUE(ok(map_->grow(block(0))));
        mark(0, 512);
        ASSERT_TRUE(ok(map_->unmap(Pfn{64}, order(4))));
        void* const filler =
            ::mmap(nullptr, 2 * most * k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        ASSERT_NE(filler, MAP_FAILED);
        int error = 0;
        for (std::size_t i = 1; i < 2 * most && error == 0; i += 2)
            if (::mprotect(static_cast<std::byte*>(filler) + i * k_page_size, k_page_size, PROT_READ) != 0)
                error = errno;
        ASSERT_EQ(error, ENOMEM) << "the limit is reached";
        expect_enomem(map_->unmap(Pfn{8}, Order{}));
        EXPECT_TRUE(marked(0, 64));
        expect_enomem(map_->restore(Pfn{68}, Order{}));
        EXPECT_EQ(seen_at(at(68)), Seen::reserved);
        expect_enomem(map_->grow(block(2)));
        EXPECT_EQ(seen_at(at(1024)), Seen::reserved);
        ::munmap(filler, 2 * most * k_page_size);
        EXPECT_TRUE(ok(map_->unmap(Pfn{8}, Order{})));
        EXPECT_TRUE(ok(map_->restore(Pfn{64}, order(4))));
        EXPECT_TRUE(ok(map_->grow(block(2))));
        EXPECT_TRUE(ok(map_->restore(Pfn{8}, Order{})));
        EXPECT_TRUE(marked(0, 512));
    }));
}

TEST(DirectMapHugetlb, pageblocks_are_reserved_2_mib_pages) {
    const auto created = DirectMap::create({.capacity = PageCount{1024}, .hugetlb = true});
    if (!created) GTEST_SKIP() << created.error().message();
    DirectMap& map = **created;
    EXPECT_TRUE(map.hugetlb());
    if (const auto grown = map.grow(block(0)); !grown) {
        EXPECT_EQ(grown.error().code(), ENOMEM);
        EXPECT_NE(grown.error().message().find("vm.nr_hugepages"), std::string::npos) << grown.error().message();
        EXPECT_EQ(seen_at(map.base()), Seen::reserved);
        GTEST_SKIP() << grown.error().message();
    }
    EXPECT_TRUE(is_zero(map.base(), k_huge_page_size));
    std::memset(map.base(), 7, k_huge_page_size);
    EXPECT_EQ(map.statistics()->bytes_2m, k_huge_page_size);
    EXPECT_EQ(map.statistics()->bytes_4k, 0U);
    EXPECT_FALSE(map.unmap(Pfn{1}, Order{})) << "a part of a reserved page cannot leave";
    EXPECT_EQ(map.base()[k_page_size], std::byte{7});
    ASSERT_TRUE(ok(map.unmap(block(0), k_pageblock_order)));
    EXPECT_EQ(seen_at(map.base()), Seen::reserved);
    ASSERT_TRUE(ok(map.restore(block(0), k_pageblock_order)));
    EXPECT_EQ(map.base()[k_huge_page_size - 1], std::byte{7});
    EXPECT_EQ(file_memory(map.fd()), k_huge_page_size);
    ASSERT_TRUE(ok(map.give_back(block(0))));
    EXPECT_EQ(file_memory(map.fd()), 0U);
    ASSERT_TRUE(ok(map.grow(block(0))));
    EXPECT_TRUE(is_zero(map.base(), k_huge_page_size));
}

TEST(DirectMapHugetlb, a_kernel_without_it_is_ENOTSUP) {
    for (const int error : {ENOSYS, ENOENT, EINVAL, EOPNOTSUPP}) {
        FailCall failing{Call::memfd_create, error, 0, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        expect_refused(DirectMap::create({.capacity = PageCount{512}, .hugetlb = true}), ENOTSUP, "2 MiB");
    }
}

}  // namespace
}  // namespace harena
