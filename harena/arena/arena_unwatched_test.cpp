// SPDX-License-Identifier: Apache-2.0
//
// Where userfaultfd is refused: the host's touches are found when somebody looks.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::byte_at;
using test::number;
using test::page_at;
using test::refused;
using test::usage;

/// What a sandbox does.
class WithoutUserfaultfd {
public:
    explicit WithoutUserfaultfd(int error = EPERM) : injector_{Call::userfaultfd, error, 0, FailCall::Repeat::always} {}

private:
    FailCall injector_;
    ScopedFaultInjector scope_{injector_};
};

class ArenaUnwatched : public ::testing::Test {
protected:
    static constexpr std::uint64_t k_pages = 1'300;

    void SetUp() override { make({.name = "unwatched", .pages = PageCount{k_pages}}); }
    void make(const ArenaOptions& options) {
        const WithoutUserfaultfd sandbox;
        arena_ = test::make_tuned_arena(options);
        ASSERT_NE(arena_, nullptr);
    }
    void TearDown() override {
        arena_->kfunc_free_pages(number(arena_->data()), static_cast<std::uint32_t>(arena_->pages().value()));
        EXPECT_EQ(usage(*arena_), "0 0");
        ASSERT_TRUE(test::ok(arena_->alloc_pages(arena_->pages())));
        EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
    }
    [[nodiscard]] std::byte* at(std::uint64_t page) const { return page_at(*arena_, page); }
    /// As an engine asks.
    bool has_memory(const std::byte* address, unsigned bytes = 1) {
        return arena_->has_memory(static_cast<std::int64_t>(number(address) - number(arena_->window())), bytes);
    }
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaUnwatched, an_arena_works_and_says_so) {
    EXPECT_FALSE(arena_->watched());
    EXPECT_FALSE(arena_->statistics().value().watched);
    void* const pages = arena_->alloc_pages(PageCount{3}).value();
    EXPECT_TRUE(test::is_zero(static_cast<std::byte*>(pages), 3 * k_page_size));
    std::memset(pages, 0xee, 3 * k_page_size);
    ASSERT_TRUE(arena_->free_pages(pages, PageCount{3}));
    EXPECT_TRUE(refused(arena_->free_pages(pages, PageCount{1}), EINVAL, "free already"));
    ASSERT_TRUE(arena_->reserve_pages(at(9), PageCount{1}));
    EXPECT_EQ(usage(*arena_), "0 1");
    EXPECT_NE(arena_->kfunc_alloc_pages(0, 100, -1, 0), 0U);
}

TEST_F(ArenaUnwatched, with_userfaultfd_there_is_a_watched_one) {
    const auto watched = test::make_tuned_arena({.pages = PageCount{1}});
    ASSERT_NE(watched, nullptr);
    EXPECT_TRUE(watched->watched());
}

TEST_F(ArenaUnwatched, exactness_and_segv_on_fault_cannot_be_had) {
    for (const int error : {EPERM, ENOSYS}) {
        const WithoutUserfaultfd sandbox{error};
        EXPECT_TRUE(refused(ProcessArena::create({.pages = PageCount{1}, .tuning = {.exact_presence = true}}), error,
                            "harena doctor"));
        EXPECT_TRUE(
            refused(ProcessArena::create({.pages = PageCount{1}, .segv_on_fault = true}), error, "harena doctor"));
    }
}

TEST_F(ArenaUnwatched, touched_pages_are_found_at_allocation_and_keep_what_was_written) {
    byte_at(at(0)) = 1;
    byte_at(at(2)) = 2;
    EXPECT_EQ(byte_at(at(5)), 0) << "a read is a touch, too";
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = at(2)}), EBUSY, ""));
    EXPECT_EQ(arena_->kfunc_alloc_pages(number(at(1)), 2, -1, 0), 0U);
    for (int i = 0; i < 3; ++i) {
        const auto page = arena_->alloc_pages(PageCount{1});
        ASSERT_TRUE(test::ok(page));
        EXPECT_TRUE(*page != at(0) && *page != at(2) && *page != at(5));
        std::memset(*page, 0xee, k_page_size);
    }
    EXPECT_EQ(byte_at(at(0)), 1);
    EXPECT_EQ(byte_at(at(2)), 2);
    EXPECT_EQ(usage(*arena_), "6 0");
    EXPECT_EQ(test::host_faults(*arena_), 3U);
}

TEST_F(ArenaUnwatched, touched_pages_in_the_middle_of_a_large_range_are_found) {
    byte_at(at(700)) = 7;
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{k_pages}), ENOMEM, ""));
    EXPECT_TRUE(refused(arena_->reserve_pages(at(0), PageCount{k_pages}), EBUSY, ""));
    const auto below = arena_->alloc_pages(PageCount{700});
    ASSERT_TRUE(test::ok(below));
    EXPECT_EQ(*below, at(0));
    EXPECT_EQ(arena_->alloc_pages(PageCount{599}).value(), at(701));
    EXPECT_EQ(byte_at(at(700)), 7);
    EXPECT_EQ(usage(*arena_), "1300 0");
}

TEST_F(ArenaUnwatched, touched_pages_are_found_by_statistics_and_by_the_snapshot) {
    byte_at(at(3)) = 1;
    EXPECT_EQ(usage(*arena_), "1 0");
    EXPECT_EQ(test::host_faults(*arena_), 1U);
    byte_at(at(8)) = 1;
    const auto ranges = arena_->snapshot().value();
    ASSERT_EQ(ranges.size(), 2U);
    EXPECT_EQ(ranges[1].address, at(8));
}

TEST_F(ArenaUnwatched, a_programs_access_asks_for_each_page_whether_it_has_memory) {
    EXPECT_FALSE(has_memory(at(4)));
    EXPECT_EQ(usage(*arena_), "0 0") << "asking is no touch";
    byte_at(at(4)) = 1;
    EXPECT_TRUE(has_memory(at(4), 8));
    EXPECT_TRUE(has_memory(at(5) - 1, 1));
    EXPECT_FALSE(has_memory(at(5) - 1, 2)) << "across into an absent page";
    EXPECT_FALSE(has_memory(at(4) - 1, 2));
    EXPECT_FALSE(has_memory(at(0) - 1, 1)) << "below the arena";
    EXPECT_FALSE(has_memory(at(k_pages), 1)) << "behind it";
    EXPECT_FALSE(arena_->has_memory(-8, 8));
    EXPECT_FALSE(arena_->has_memory(std::int64_t{4} * static_cast<std::int64_t>(k_gib), 8));
    ASSERT_TRUE(arena_->alloc_pages(PageCount{1}, {.address = at(5)}));
    EXPECT_TRUE(has_memory(at(5) - 1, 2));
    ASSERT_TRUE(arena_->reserve_pages(at(6), PageCount{1}));
    EXPECT_FALSE(has_memory(at(6)));
    byte_at(at(6)) = 1;
    EXPECT_TRUE(has_memory(at(6)));
    EXPECT_EQ(usage(*arena_), "2 1");
}

TEST_F(ArenaUnwatched, touched_pages_can_be_freed_before_anybody_has_looked) {
    for (const std::uint64_t page : {0U, 1U, 2U, 3U}) std::memset(at(page), 0xee, k_page_size);
    EXPECT_TRUE(test::ok(arena_->free_pages(at(0), PageCount{1})));
    EXPECT_TRUE(test::ok(arena_->free_pages(at(1), PageCount{2})));
    arena_->kfunc_free_pages(number(at(3)), 1);
    EXPECT_EQ(usage(*arena_), "0 0");
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{4}, {.address = at(0)})));
    EXPECT_TRUE(test::is_zero(at(0), 4 * k_page_size));
}

TEST_F(ArenaUnwatched, populate_makes_pages_used_that_are_absent_freed_or_touched) {
    ASSERT_TRUE(arena_->alloc_pages(PageCount{2}, {.address = at(0)}));
    std::memset(at(0), 0xee, 2 * k_page_size);
    ASSERT_TRUE(arena_->free_pages(at(1), PageCount{1}));
    byte_at(at(3)) = 3;
    ASSERT_TRUE(test::ok(arena_->populate(at(0), 5 * k_page_size)));
    EXPECT_EQ(usage(*arena_), "5 0");
    EXPECT_EQ(byte_at(at(0)), 0xee);
    EXPECT_EQ(byte_at(at(1)), 0);
    EXPECT_EQ(byte_at(at(3)), 3);
}

TEST_F(ArenaUnwatched, files_are_read_into_it) {
    const os::FileDescriptor file{::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
    ASSERT_GE(file.get(), 0);
    EXPECT_EQ(arena_->read(file.get(), at(10) + 100, 2 * k_page_size).value(), 2 * k_page_size);
    EXPECT_EQ(std::memcmp(at(10) + 100, "\177ELF", 4), 0);
    EXPECT_EQ(usage(*arena_), "3 0");
    // Without the wrapper, too: here the kernel sees nothing special in the pages.
    EXPECT_EQ(::pread(file.get(), at(20), k_page_size, 0), static_cast<ssize_t>(k_page_size));
    EXPECT_EQ(usage(*arena_), "4 0");
}

TEST_F(ArenaUnwatched, a_limit_and_an_end_are_where_they_are_otherwise) {
    const auto account = std::make_shared<PageAccount>("small", PageCount{2});
    make({.pages = PageCount{8}, .tuning = {.account = account}});
    ASSERT_TRUE(arena_->alloc_pages(PageCount{2}));
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}), ENOMEM, "'small'"));
    EXPECT_TRUE(refused(arena_->populate(at(5), 1), ENOMEM, "'small'"));
    EXPECT_TRUE(refused(arena_->populate(at(7), k_page_size + 1), ERANGE, ""));
    account->set_limit(PageCount{100});
}

TEST_F(ArenaUnwatched, touches_are_paid_for_once_they_are_seen) {
    const auto account = std::make_shared<PageAccount>("small", PageCount{3});
    make({.pages = PageCount{8}, .tuning = {.recycle = PageCount{0}, .account = account}});
    byte_at(at(1)) = 1;
    EXPECT_EQ(usage(*arena_), "1 0");
    EXPECT_EQ(account->used(), PageCount{1}) << "seen by a look";
    byte_at(at(2)) = 2;
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = at(2)}), EBUSY, ""));
    EXPECT_EQ(account->used(), PageCount{2}) << "seen by who wanted the page";
    byte_at(at(3)) = 3;
    byte_at(at(4)) = 4;
    EXPECT_EQ(usage(*arena_), "4 0");
    EXPECT_EQ(account->used(), PageCount{3}) << "no more than there is room for";
    ASSERT_TRUE(arena_->free_pages(at(1), PageCount{4}));
    EXPECT_EQ(account->used(), PageCount{0});
    account->set_limit(PageCount{100});
}

TEST_F(ArenaUnwatched, exactness_is_not_promised_to_who_attaches) {
    const auto shared = test::shared_descriptor(*arena_);
    EXPECT_TRUE(
        refused(ProcessArena::attach(shared.get(), {.tuning = {.exact_presence = true}}), ENOSYS, "exact_presence"));
}

TEST_F(ArenaUnwatched, several_processes_have_it_and_need_no_userfaultfd) {
    const auto shared = test::shared_descriptor(*arena_);
    test::Peer peer{[&](test::Peer& parent) {
        const WithoutUserfaultfd sandbox;
        const auto mine = test::attach_instead(arena_, shared.get());
        ASSERT_NE(mine, nullptr);
        EXPECT_FALSE(mine->watched());
        byte_at(page_at(*mine, 0)) = 42;
        ASSERT_TRUE(mine->alloc_pages(PageCount{2}, {.address = page_at(*mine, 4)}));
        parent.tell();
        parent.wait();
    }};
    peer.wait();
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = at(0)}), EBUSY, "")) << "touched by the other";
    EXPECT_EQ(byte_at(at(0)), 42);
    EXPECT_EQ(usage(*arena_), "3 0");
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
}

TEST_F(ArenaUnwatched, a_watched_arena_is_not_for_a_process_without_userfaultfd) {
    auto watched = test::make_tuned_arena({.pages = PageCount{4}});
    ASSERT_NE(watched, nullptr);
    const auto shared = test::shared_descriptor(*watched);
    test::Peer peer{[&](test::Peer&) {
        watched.reset();
        const WithoutUserfaultfd sandbox;
        EXPECT_TRUE(refused(ProcessArena::attach(shared.get()), EPERM, "harena doctor"));
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(test::processes(*watched), 1U);
}

}  // namespace
}  // namespace harena
