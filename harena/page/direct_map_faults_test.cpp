// SPDX-License-Identifier: Apache-2.0
//
// Each system call of the direct map fails in turn: an error, and all pages are as they were.
#include <sys/mman.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

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

}  // namespace
}  // namespace harena
