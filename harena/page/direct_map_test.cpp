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
#include "harena/page/direct_map_test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::block;
using test::DirectMapTest;
using test::file_memory;
using test::holds_in_child;
using test::is_zero;
using test::make_map;
using test::ok;
using test::order;
using test::Seen;
using test::seen_at;

void expect_refused(const Result<std::unique_ptr<DirectMap>>& map, int code, std::string_view part) {
    ASSERT_FALSE(map);
    EXPECT_EQ(map.error().code(), code) << map.error().message();
    EXPECT_NE(map.error().message().find(part), std::string::npos) << map.error().message();
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
