// SPDX-License-Identifier: Apache-2.0
#include "harena/page/pressure_monitor.hpp"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>

#include "harena/base/os/fault_injection.hpp"
#include "harena/page/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

using test::make_pool;
using test::refused;

/// A trigger that a test can pull: out-of-band data polls as POLLPRI.
class Trigger {
public:
    Trigger() {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        ours_ = os::FileDescriptor{ends[0]};
        watched = os::FileDescriptor{ends[1]};
    }
    /// False: this kernel's sockets have none.
    [[nodiscard]] bool pull() const { return ::send(ours_.get(), "!", 1, MSG_OOB | MSG_NOSIGNAL) == 1; }

    os::FileDescriptor watched;

private:
    os::FileDescriptor ours_;
};

TEST(PressureMonitor, shrinks_the_unmapped_cache_when_memory_is_short) {
    const auto pool = make_pool(PageCount{1024});
    Page* const page = pool->unmapped().unmapped_pages_alloc(k_pageblock_order).value();
    ASSERT_TRUE(pool->unmapped().unmapped_pages_free(page));
    Trigger trigger;
    const auto monitor = PressureMonitor::watch(pool->unmapped(), std::move(trigger.watched), PageCount{1});
    ASSERT_TRUE(monitor) << monitor.error().message();
    EXPECT_EQ((*monitor)->notifications(), 0U);
    if (!trigger.pull()) GTEST_SKIP() << "sockets without out-of-band data";
    while ((*monitor)->notifications() == 0) std::this_thread::yield();
    EXPECT_EQ((*monitor)->given(), PageCount{512});
    EXPECT_EQ(pool->unmapped().count(), PageCount{0});
}

TEST(PressureMonitor, a_pool_gives_memory_back_to_the_system) {
    const auto pool = make_pool(PageCount{1024});
    Page* const page = pool->alloc_pages(k_max_order).value();
    ASSERT_TRUE(pool->free_pages(page, k_max_order));
    EXPECT_EQ(pool->count(), PageCount{1024});
    Trigger trigger;
    const auto monitor = PressureMonitor::watch(*pool, std::move(trigger.watched), PageCount{512});
    ASSERT_TRUE(monitor) << monitor.error().message();
    if (!trigger.pull()) GTEST_SKIP() << "sockets without out-of-band data";
    while ((*monitor)->given() < PageCount{512}) std::this_thread::yield();
    EXPECT_LE(test::bytes_in_use(pool->fd()), k_huge_page_size);
}

TEST(PressureMonitor, ends_while_it_waits_and_when_its_trigger_does) {
    const auto pool = make_pool(PageCount{512});
    {
        Trigger trigger;
        const auto monitor = PressureMonitor::watch(*pool, std::move(trigger.watched), PageCount{512});
        ASSERT_TRUE(monitor);
    }
    Trigger trigger;
    auto watched = std::move(trigger.watched);
    {
        const Trigger gone = std::move(trigger);
    }
    EXPECT_TRUE(PressureMonitor::watch(*pool, std::move(watched), PageCount{512}));
}

TEST(PressureMonitor, a_child_that_ends_it_leaves_the_parents_alone) {
    const auto pool = make_pool(PageCount{1024});
    Page* const page = pool->alloc_pages(k_max_order).value();
    ASSERT_TRUE(pool->free_pages(page, k_max_order));
    Trigger trigger;
    auto monitor = PressureMonitor::watch(*pool, std::move(trigger.watched), PageCount{512});
    ASSERT_TRUE(monitor);
    const pid_t child = ::fork();
    if (child == 0) {
        monitor->reset();
        ::_exit(0);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE((*monitor)->watching());
    if (!trigger.pull()) GTEST_SKIP() << "sockets without out-of-band data";
    while ((*monitor)->notifications() == 0) std::this_thread::yield();
}

TEST(PressureMonitor, the_kernel_takes_the_trigger_of_the_machine) {
    const auto pool = make_pool(PageCount{512});
    const auto monitor = PressureMonitor::start(*pool);
    if (!monitor) GTEST_SKIP() << monitor.error().message();
    EXPECT_TRUE(refused(PressureMonitor::start(*pool, {.stall_us = 2, .window_us = 1}), EINVAL, "2 us in 1 us"));
}

TEST(PressureMonitor, what_it_cannot_have_is_an_error) {
    const auto pool = make_pool(PageCount{512});
    EXPECT_TRUE(
        refused(PressureMonitor::start(*pool, {.file = "/nonexistent/pressure"}), ENOENT, "/nonexistent/pressure"));
    os::FailCall failing{os::Call::eventfd, EMFILE};
    const os::ScopedFaultInjector injected{failing};
    Trigger trigger;
    EXPECT_TRUE(refused(PressureMonitor::watch(*pool, std::move(trigger.watched), PageCount{1}), EMFILE, "eventfd"));
}

}  // namespace
}  // namespace harena
