// SPDX-License-Identifier: Apache-2.0
#include "harena/base/chained_signal.hpp"

#include <unistd.h>

#include <array>
#include <csignal>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/test_support.hpp"

namespace harena {
namespace {

// Each test has a signal of its own: what was installed stays.
struct Seen {
    int ours = 0;
    int earlier = 0;
    int sender = 0;
    bool blocked = false;  // SIGURG, while the earlier handler ran
};
Seen seen;

template <int k_signal>
constinit ChainedSignal chained{k_signal};

template <int k_signal>
void on_signal(int /*signal*/, siginfo_t* info, void* context) noexcept {
    ++seen.ours;
    chained<k_signal>.pass_on(info, context);
}

void earlier(int /*signal*/, siginfo_t* info, void* /*context*/) {
    ++seen.earlier;
    seen.sender = info->si_pid;
    sigset_t mask;
    sigemptyset(&mask);
    ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    seen.blocked = sigismember(&mask, SIGURG) == 1;
}

void set_handler(int signal, int flags) {
    struct sigaction action{};
    action.sa_sigaction = &earlier;
    action.sa_flags = SA_SIGINFO | flags;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGURG);
    ASSERT_EQ(::sigaction(signal, &action, nullptr), 0);
}

TEST(ChainedSignal, what_is_passed_on_reaches_the_earlier_handler_with_its_details_and_mask) {
    set_handler(SIGUSR1, 0);
    ASSERT_TRUE(test::ok(chained<SIGUSR1>.install(&on_signal<SIGUSR1>)));
    seen = {};
    ASSERT_EQ(::raise(SIGUSR1), 0);
    EXPECT_EQ(seen.ours, 1);
    EXPECT_EQ(seen.earlier, 1);
    EXPECT_EQ(seen.sender, ::getpid());
    EXPECT_TRUE(seen.blocked);
    sigset_t mask;
    ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    EXPECT_EQ(sigismember(&mask, SIGURG), 0) << "the mask is what it was";
}

TEST(ChainedSignal, a_handler_for_one_signal_has_one) {
    set_handler(SIGUSR2, static_cast<int>(SA_RESETHAND));
    ASSERT_TRUE(test::ok(chained<SIGUSR2>.install(&on_signal<SIGUSR2>)));
    seen = {};
    ASSERT_EQ(::raise(SIGUSR2), 0);
    EXPECT_EQ(seen.earlier, 1);
    EXPECT_EXIT(::raise(SIGUSR2), ::testing::KilledBySignal(SIGUSR2), "");
}

TEST(ChainedSignal, one_that_was_ignored_stays_so) {
    ASSERT_NE(::signal(SIGHUP, SIG_IGN), SIG_ERR);
    ASSERT_TRUE(test::ok(chained<SIGHUP>.install(&on_signal<SIGHUP>)));
    seen = {};
    ASSERT_EQ(::raise(SIGHUP), 0);
    EXPECT_EQ(seen.ours, 1);
}

TEST(ChainedSignal, one_without_a_handler_does_what_it_does) {
    ASSERT_TRUE(test::ok(chained<SIGALRM>.install(&on_signal<SIGALRM>)));
    EXPECT_EXIT(::raise(SIGALRM), ::testing::KilledBySignal(SIGALRM), "");
}

TEST(ChainedSignal, what_was_there_comes_back_where_the_rest_failed) {
    set_handler(SIGVTALRM, 0);
    ASSERT_TRUE(test::ok(chained<SIGVTALRM>.install(&on_signal<SIGVTALRM>)));
    chained<SIGVTALRM>.uninstall();
    seen = {};
    ASSERT_EQ(::raise(SIGVTALRM), 0);
    EXPECT_EQ(seen.ours, 0);
    EXPECT_EQ(seen.earlier, 1);
}

TEST(ChainedSignal, refused_calls_are_errors_and_change_nothing) {
    set_handler(SIGPROF, 0);
    for (const std::uint64_t skip : {0U, 1U}) {
        os::FailCall injector{os::Call::sigaction, EPERM, skip};
        const os::ScopedFaultInjector scope{injector};
        EXPECT_TRUE(test::refused(chained<SIGPROF>.install(&on_signal<SIGPROF>), EPERM, "handler"));
    }
    seen = {};
    ASSERT_EQ(::raise(SIGPROF), 0);
    EXPECT_EQ(seen.ours, 0);
    EXPECT_EQ(seen.earlier, 1);
}

}  // namespace
}  // namespace harena
