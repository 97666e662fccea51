// SPDX-License-Identifier: Apache-2.0
//
// Every system call of the arena fails in turn: an error that says so, nothing left behind, and an arena that still
// works.
#include <cerrno>
#include <cstring>
#include <thread>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::byte_at;
using test::k_free_address;
using test::make_arena;
using test::page_at;
using test::usage;

ArenaOptions options_at(std::uint64_t start) {
    return {.name = "injected",
            .pages = PageCount{8},
            .user_vm_start = UserAddress{start},
            .tuning = {.exact_presence = true}};
}

void expect_works(ProcessArena& arena) {
    const std::string before = usage(arena);
    const auto page = arena.alloc_pages(PageCount{2});
    ASSERT_TRUE(page) << page.error().message();
    EXPECT_TRUE(test::is_zero(static_cast<std::byte*>(*page), 2 * k_page_size));
    std::memset(*page, 0xff, 2 * k_page_size);
    ASSERT_TRUE(arena.free_pages(*page, PageCount{2}));
    EXPECT_EQ(usage(arena), before);
}

struct Failing {
    Call call;
    int error;
    bool tolerated;  // whether the arena can do without
};

class CreationFails : public ::testing::TestWithParam<Failing> {};
INSTANTIATE_TEST_SUITE_P(
    Calls, CreationFails,
    ::testing::Values(Failing{Call::mmap, ENOMEM, false}, Failing{Call::mprotect, ENOMEM, false},
                      Failing{Call::munlock, ENOMEM, true}, Failing{Call::madvise, EINVAL, false},
                      Failing{Call::memfd_create, EMFILE, false}, Failing{Call::ftruncate, EFBIG, false},
                      Failing{Call::add_seals, EPERM, false}, Failing{Call::getrlimit, EFAULT, true},
                      Failing{Call::userfaultfd, EPERM, false}, Failing{Call::uffd_api, EINVAL, false},
                      Failing{Call::uffd_register, ENOMEM, false}));

// At each place where the call is made.
TEST_P(CreationFails, with_a_message_and_leaves_nothing_behind) {
    const auto [call, error, tolerated] = GetParam();
    for (const std::uint64_t start : {k_free_address, std::uint64_t{0}}) {
        make_arena(options_at(start));  // what is done once for the process is done
        const std::size_t descriptors = test::open_descriptors();
        const std::size_t mappings = test::count_mappings("");
        std::uint64_t places = 0;
        for (;; ++places) {
            FailCall injector{call, error, places};
            {
                const ScopedFaultInjector scope{injector};
                const auto arena = ProcessArena::create(options_at(start));
                if (injector.seen() <= places) {
                    EXPECT_TRUE(arena);
                    break;
                }
                EXPECT_EQ(arena.has_value(), tolerated) << places;
                if (!arena) {
                    EXPECT_EQ(arena.error().code(), error);
                    EXPECT_GT(arena.error().message().size(), 20U);
                    EXPECT_NE(arena.error().message().find(tolerated ? "" : std::string{::strerrorname_np(error)}),
                              std::string::npos)
                        << arena.error().message();
                }
            }
            EXPECT_EQ(test::open_descriptors(), descriptors) << places;
            EXPECT_EQ(test::count_mappings("harena:injected"), 0U) << places;
            EXPECT_FALSE(os::find_mapping(k_free_address - Window::k_guard_below, Window::k_span_bytes)) << places;
            if (!test::k_sanitized) {
                EXPECT_EQ(test::count_mappings(""), mappings) << places;
            }
            const auto after = make_arena(options_at(start));
            ASSERT_NE(after, nullptr);
            expect_works(*after);
        }
        EXPECT_GT(places, 0U) << "the call is made at all";
    }
}

TEST(ArenaFaultInjection, a_window_that_cannot_be_had_for_locked_memory_says_so) {
    ASSERT_TRUE(ProcessArena::create(options_at(0))) << "what is made once in a process";
    FailCall injector{Call::mmap, EAGAIN};
    const ScopedFaultInjector scope{injector};
    const auto arena = ProcessArena::create(options_at(0));
    ASSERT_FALSE(arena);
    EXPECT_EQ(arena.error().code(), ENOMEM);
    EXPECT_NE(arena.error().message().find("RLIMIT_MEMLOCK"), std::string::npos) << arena.error().message();
}

TEST(ArenaFaultInjection, a_sandbox_without_userfaultfd_is_told_where_to_look) {
    for (const int error : {ENOSYS, EPERM}) {
        FailCall injector{Call::userfaultfd, error};
        const ScopedFaultInjector scope{injector};
        const auto arena = ProcessArena::create(options_at(0));
        ASSERT_FALSE(arena);
        EXPECT_EQ(arena.error().code(), error);
        EXPECT_NE(arena.error().message().find("harena doctor"), std::string::npos) << arena.error().message();
    }
}

class ArenaFaultInjectionInUse : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = make_arena(options_at(0));
        ASSERT_NE(arena_, nullptr);
        ASSERT_TRUE(arena_->alloc_pages(PageCount{1}));
        std::memset(arena_->data(), 0x77, k_page_size);
    }
    void TearDown() override {
        EXPECT_TRUE(test::byte_at(arena_->data()) == 0x77) << "what was allocated is untouched";
        expect_works(*arena_);
        arena_->kfunc_free_pages(test::number(arena_->data()), 8);
        EXPECT_EQ(usage(*arena_), "0 0");
        EXPECT_TRUE(arena_->alloc_pages(PageCount{8}));
        EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
    }
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaFaultInjectionInUse, an_allocation_without_memory_is_ENOMEM_and_allocates_nothing) {
    for (const int error : {ENOMEM, ENOSPC}) {
        FailCall injector{Call::uffd_zeropage, error};
        const ScopedFaultInjector scope{injector};
        const auto pages = arena_->alloc_pages(PageCount{3});
        ASSERT_FALSE(pages);
        EXPECT_EQ(pages.error().code(), ENOMEM);
        EXPECT_NE(pages.error().message().find("'injected'"), std::string::npos);
        EXPECT_EQ(usage(*arena_), "1 0");
    }
    FailCall injector{Call::uffd_zeropage, ENOMEM};
    const ScopedFaultInjector scope{injector};
    EXPECT_EQ(arena_->kfunc_alloc_pages(0, 3, -1, 0), 0U);
    EXPECT_EQ(usage(*arena_), "1 0");
    EXPECT_EQ(arena_->alloc_pages(PageCount{7}).value(), page_at(*arena_, 1)) << "all of it is free again";
    arena_->kfunc_free_pages(test::number(page_at(*arena_, 1)), 7);
}

TEST_F(ArenaFaultInjectionInUse, an_allocation_survives_EAGAIN) {
    FailCall injector{Call::uffd_zeropage, EAGAIN};
    const ScopedFaultInjector scope{injector};
    EXPECT_TRUE(arena_->alloc_pages(PageCount{3}));
}

TEST_F(ArenaFaultInjectionInUse, populate_without_memory_is_ENOMEM_and_the_page_stays_free) {
    FailCall injector{Call::uffd_zeropage, ENOMEM, 1};
    {
        const ScopedFaultInjector scope{injector};
        const auto populated = arena_->populate(arena_->data(), 4 * k_page_size);
        ASSERT_FALSE(populated);
        EXPECT_EQ(populated.error().code(), ENOMEM);
    }
    EXPECT_EQ(usage(*arena_), "2 0");
    EXPECT_EQ(arena_->alloc_pages(PageCount{6}).value(), page_at(*arena_, 2));
    arena_->kfunc_free_pages(test::number(page_at(*arena_, 1)), 7);
}

TEST_F(ArenaFaultInjectionInUse, a_free_that_the_kernel_refuses_is_an_error_and_the_pages_stay_allocated) {
    void* const pages = arena_->alloc_pages(PageCount{3}).value();
    byte_at(pages) = 5;
    {
        FailCall injector{Call::fallocate, ENOMEM};
        const ScopedFaultInjector scope{injector};
        const auto freed = arena_->free_pages(pages, PageCount{3});
        ASSERT_FALSE(freed);
        EXPECT_EQ(freed.error().code(), ENOMEM);
        EXPECT_NE(freed.error().message().find("stay allocated"), std::string::npos) << freed.error().message();
        EXPECT_EQ(usage(*arena_), "4 0");
        EXPECT_EQ(byte_at(pages), 5);
    }
    FailCall injector{Call::fallocate, ENOMEM};
    {
        const ScopedFaultInjector scope{injector};
        arena_->kfunc_free_pages(test::number(pages), 3);
    }
    EXPECT_EQ(usage(*arena_), "4 0");
    EXPECT_TRUE(arena_->free_pages(pages, PageCount{3}));
    EXPECT_EQ(usage(*arena_), "1 0");
}

TEST(ArenaFaultInjection, of_a_long_free_only_the_refused_batch_stays_allocated) {
    const auto arena = make_arena(2000);
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->alloc_pages(PageCount{2000}));
    {
        FailCall injector{Call::fallocate, ENOMEM, 1};
        const ScopedFaultInjector scope{injector};
        EXPECT_FALSE(arena->free_pages(arena->data(), PageCount{2000}));
    }
    EXPECT_EQ(usage(*arena), "512 0");
    EXPECT_TRUE(arena->free_pages(page_at(*arena, 512), PageCount{512}));
    EXPECT_EQ(arena->alloc_pages(PageCount{2000}).value(), arena->data());
}

class PrepareThreadFails : public ::testing::TestWithParam<Call> {};
INSTANTIATE_TEST_SUITE_P(Calls, PrepareThreadFails,
                         ::testing::Values(Call::sigmask, Call::sigaltstack, Call::mmap, Call::mprotect));

TEST_P(PrepareThreadFails, with_a_message_and_can_be_tried_again) {
    std::uint64_t places = 0;
    for (bool failed = true; failed; ++places) {
        std::thread{[&] {
            const std::size_t mappings = test::count_mappings("");
            FailCall injector{GetParam(), ENOMEM, places};
            {
                const ScopedFaultInjector scope{injector};
                const auto prepared = fault_handler::prepare_thread();
                failed = injector.seen() > places;
                EXPECT_EQ(prepared.has_value(), !failed);
                if (!prepared) {
                    EXPECT_EQ(prepared.error().code(), ENOMEM);
                }
            }
            if (failed && !test::k_sanitized) {
                EXPECT_EQ(test::count_mappings(""), mappings) << places;
            }
            EXPECT_TRUE(fault_handler::prepare_thread());
        }}.join();
    }
    if (!test::k_sanitized) {
        EXPECT_GT(places, 1U) << "the call is made at all";
    }
}

}  // namespace
}  // namespace harena
