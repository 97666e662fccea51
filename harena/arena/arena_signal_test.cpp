// SPDX-License-Identifier: Apache-2.0
//
// SIGSEGV and SIGBUS that are not the arenas' reach whoever had them before, as if no arena were there. Every test runs
// in a fresh process: the host's handler must be there before the first arena is.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <thread>

#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"

namespace harena {
namespace {

using test::byte_at;
using test::make_arena;
using test::number;
using test::page_at;

// What the host's handlers saw last, and where they jump to.
struct Seen {
    volatile sig_atomic_t count;
    int signal;
    siginfo_t info;
    bool has_context;
    sigset_t mask;
};
Seen seen{};
sigjmp_buf escape;
std::byte* repairable = nullptr;

void note(int signal, siginfo_t* info, void* context) {
    seen.count = seen.count + 1;
    seen.signal = signal;
    if (info != nullptr) seen.info = *info;
    seen.has_context = context != nullptr;
    (void)::pthread_sigmask(SIG_BLOCK, nullptr, &seen.mask);
}
void note_and_jump(int signal, siginfo_t* info, void* context) {
    note(signal, info, context);
    siglongjmp(escape, 1);
}
void note_and_repair(int signal, siginfo_t* info, void* context) {
    note(signal, info, context);
    (void)::mprotect(repairable, k_page_size, PROT_READ | PROT_WRITE);
}
void note_plain_and_jump(int signal) {
    note(signal, nullptr, nullptr);
    siglongjmp(escape, 1);
}

using InfoHandler = void (*)(int, siginfo_t*, void*);

void host_installs(int signal, InfoHandler handler, int flags = 0, std::initializer_list<int> mask = {}) {
    struct sigaction action{};
    action.sa_sigaction = handler;
    action.sa_flags = flags | SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    for (const int blocked : mask) sigaddset(&action.sa_mask, blocked);
    ASSERT_EQ(::sigaction(signal, &action, nullptr), 0);
}
void host_installs_plain(int signal, void (*handler)(int), int flags = 0) {
    struct sigaction action{};
    action.sa_handler = handler;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    ASSERT_EQ(::sigaction(signal, &action, nullptr), 0);
}

/// A write whose handler may change what this file's variables hold.
void touch(std::byte* address, unsigned char value = 1) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    byte_at(address) = value;
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

bool in_mask(int signal) { return sigismember(&seen.mask, signal) == 1; }

/// Memory that no access is allowed to, and that is no arena's.
std::byte* forbidden_page() {
    void* const page = ::mmap(nullptr, k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? nullptr : static_cast<std::byte*>(page);
}
/// A mapped page behind the end of its file: a touch is SIGBUS.
std::byte* page_behind_the_end() {
    const int file = ::memfd_create("short", MFD_CLOEXEC);
    void* const page = ::mmap(nullptr, k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    return page == MAP_FAILED ? nullptr : static_cast<std::byte*>(page);
}

/// Touches `address`, which a handler jumps out of.
void touch_and_escape(std::byte* address) {
    if (sigsetjmp(escape, 1) == 0) {
        touch(address);
        ADD_FAILURE() << "the touch came back";
    }
}

void expect_arena_works() {
    const auto arena = make_arena(3);
    ASSERT_NE(arena, nullptr);
    touch(arena->data());
    EXPECT_EQ(nofault::load(number(page_at(*arena, 1)), 8).faulted, 1U);
    EXPECT_EQ(test::usage(*arena), "1 0");
}

class ArenaSignal : public test::FreshProcess {
protected:
    template <typename Body>
    static void expect_death_by(int signal, Body&& body) {
        EXPECT_EXIT(test::run_as_child(body), ::testing::KilledBySignal(signal), "");
    }
    static void host_has_default_actions() {
        (void)std::signal(SIGSEGV, SIG_DFL);
        (void)std::signal(SIGBUS, SIG_DFL);
    }
};

TEST_F(ArenaSignal, a_foreign_SIGSEGV_reaches_the_earlier_handler_with_its_details) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_jump);
        expect_arena_works();
        std::byte* const page = forbidden_page();
        touch_and_escape(page + 123);
        EXPECT_EQ(seen.count, 1);
        EXPECT_EQ(seen.signal, SIGSEGV);
        EXPECT_EQ(seen.info.si_signo, SIGSEGV);
        EXPECT_EQ(seen.info.si_code, SEGV_ACCERR);
        EXPECT_EQ(seen.info.si_addr, page + 123);
        EXPECT_TRUE(seen.has_context);
        ASSERT_EQ(::munmap(page, k_page_size), 0);
        touch_and_escape(page);
        EXPECT_EQ(seen.info.si_code, SEGV_MAPERR);
        expect_arena_works();
    });
}

TEST_F(ArenaSignal, a_foreign_SIGBUS_reaches_the_earlier_handler_with_its_details) {
    expect_holds([] {
        host_installs(SIGBUS, &note_and_jump);
        expect_arena_works();
        std::byte* const page = page_behind_the_end();
        touch_and_escape(page + 5);
        EXPECT_EQ(seen.signal, SIGBUS);
        EXPECT_EQ(seen.info.si_code, BUS_ADRERR);
        EXPECT_EQ(seen.info.si_addr, page + 5);
        expect_arena_works();
        EXPECT_EQ(seen.count, 1);
    });
}

TEST_F(ArenaSignal, a_handler_without_siginfo_is_called_without) {
    expect_holds([] {
        host_installs_plain(SIGSEGV, &note_plain_and_jump);
        expect_arena_works();
        touch_and_escape(forbidden_page());
        EXPECT_EQ(seen.signal, SIGSEGV);
        EXPECT_EQ(seen.count, 1);
    });
}

TEST_F(ArenaSignal, a_handler_that_repairs_the_fault_and_returns_lets_the_access_succeed) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_repair);
        expect_arena_works();
        repairable = forbidden_page();
        touch(repairable + 7, 9);
        EXPECT_EQ(byte_at(repairable + 7), 9);
        EXPECT_EQ(seen.count, 1);
    });
}

TEST_F(ArenaSignal, a_refused_touch_reaches_the_hosts_SIGSEGV_handler_with_the_address) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_jump);
        const auto arena = make_arena({.pages = PageCount{2}, .segv_on_fault = true});
        ASSERT_NE(arena, nullptr);
        for (int turn = 1; turn <= 3; ++turn) {
            touch_and_escape(page_at(*arena, 1) + 77);
            EXPECT_EQ(seen.count, turn);
            EXPECT_EQ(seen.signal, SIGSEGV);
            EXPECT_EQ(seen.info.si_code, SEGV_MAPERR);
            EXPECT_EQ(seen.info.si_addr, page_at(*arena, 1) + 77);
        }
        EXPECT_EQ(test::usage(*arena), "0 0");
        expect_arena_works();
    });
}

TEST_F(ArenaSignal, the_hosts_handler_may_allocate_the_page_that_was_refused_and_return) {
    expect_holds([] {
        static std::shared_ptr<ProcessArena> arena;
        host_installs(SIGSEGV, [](int signal, siginfo_t* info, void* context) {
            note(signal, info, context);
            (void)arena->alloc_pages(PageCount{1}, {.address = arena->data()});
        });
        arena = make_arena({.pages = PageCount{2}, .segv_on_fault = true});
        ASSERT_NE(arena, nullptr);
        touch(arena->data() + 3, 8);
        EXPECT_EQ(byte_at(arena->data() + 3), 8);
        EXPECT_EQ(seen.count, 1);
        arena.reset();
    });
}

TEST_F(ArenaSignal, the_handler_runs_with_its_own_mask_and_the_threads_mask_comes_back) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_repair, 0, {SIGUSR1, SIGTERM});
        expect_arena_works();
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGHUP);
        ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &one, nullptr), 0);
        repairable = forbidden_page();
        touch(repairable);
        EXPECT_TRUE(in_mask(SIGUSR1));
        EXPECT_TRUE(in_mask(SIGTERM));
        EXPECT_TRUE(in_mask(SIGHUP));
        EXPECT_TRUE(in_mask(SIGSEGV));
        EXPECT_EQ(in_mask(SIGUSR2), test::k_thread_sanitizer);
        sigset_t after;
        ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, nullptr, &after), 0);
        EXPECT_EQ(sigismember(&after, SIGHUP), 1);
        for (const int signal : {SIGUSR1, SIGTERM, SIGSEGV, SIGBUS})
            EXPECT_EQ(sigismember(&after, signal), 0) << signal;
    });
}

TEST_F(ArenaSignal, SA_NODEFER_lets_the_handler_be_interrupted_by_its_own_signal) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_repair, SA_NODEFER);
        expect_arena_works();
        repairable = forbidden_page();
        touch(repairable);
        EXPECT_FALSE(in_mask(SIGSEGV));
        EXPECT_EQ(seen.count, 1);
    });
}

TEST_F(ArenaSignal, SA_NODEFER_with_the_signal_in_the_mask_blocks_it) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_repair, SA_NODEFER, {SIGSEGV});
        expect_arena_works();
        repairable = forbidden_page();
        touch(repairable);
        EXPECT_TRUE(in_mask(SIGSEGV));
    });
}

TEST_F(ArenaSignal, SA_RESETHAND_gives_the_handler_one_signal_and_the_next_kills) {
    expect_death_by(SIGSEGV, [] {
        host_installs(SIGSEGV, &note_and_jump, static_cast<int>(SA_RESETHAND));
        expect_arena_works();
        touch_and_escape(forbidden_page());
        if (seen.count != 1) std::_Exit(3);
        expect_arena_works();
        touch(forbidden_page());
    });
}

TEST_F(ArenaSignal, the_default_action_kills_with_the_right_signal) {
    expect_death_by(SIGSEGV, [] {
        host_has_default_actions();
        expect_arena_works();
        touch(forbidden_page());
    });
    expect_death_by(SIGBUS, [] {
        host_has_default_actions();
        expect_arena_works();
        touch(page_behind_the_end());
    });
}

TEST_F(ArenaSignal, an_ignored_fault_kills_all_the_same) {
    expect_death_by(SIGSEGV, [] {
        host_installs_plain(SIGSEGV, SIG_IGN);
        expect_arena_works();
        touch(forbidden_page());
    });
    expect_death_by(SIGBUS, [] {
        host_installs_plain(SIGBUS, SIG_IGN);
        expect_arena_works();
        touch(page_behind_the_end());
    });
}

TEST_F(ArenaSignal, a_refused_touch_kills_a_host_that_ignores_SIGSEGV) {
    expect_death_by(SIGSEGV, [] {
        host_installs_plain(SIGSEGV, SIG_IGN);
        const auto arena = make_arena({.pages = PageCount{1}, .segv_on_fault = true});
        touch(arena->data());
    });
}

TEST_F(ArenaSignal, signals_that_somebody_sends_reach_the_earlier_handler) {
    for (const int signal : {SIGSEGV, SIGBUS})
        expect_holds([signal] {
            host_installs(signal, &note);
            expect_arena_works();
            ASSERT_EQ(::kill(::getpid(), signal), 0);
            EXPECT_EQ(seen.count, 1);
            EXPECT_EQ(seen.info.si_code, SI_USER);
            EXPECT_EQ(seen.info.si_pid, ::getpid());
            ASSERT_EQ(::sigqueue(::getpid(), signal, {.sival_int = 4711}), 0);
            EXPECT_EQ(seen.count, 2);
            EXPECT_EQ(seen.info.si_code, SI_QUEUE);
            EXPECT_EQ(seen.info.si_value.sival_int, 4711);
            ASSERT_EQ(::raise(signal), 0);
            EXPECT_EQ(seen.count, 3);
            EXPECT_EQ(seen.info.si_code, SI_TKILL);
            expect_arena_works();
        });
}

TEST_F(ArenaSignal, signals_that_somebody_sends_kill_where_nobody_handles_them) {
    for (const int signal : {SIGSEGV, SIGBUS})
        expect_death_by(signal, [signal] {
            host_has_default_actions();
            expect_arena_works();
            (void)::kill(::getpid(), signal);
        });
}

TEST_F(ArenaSignal, signals_that_somebody_sends_are_ignored_where_they_were) {
    expect_holds([] {
        for (const int signal : {SIGSEGV, SIGBUS}) host_installs_plain(signal, SIG_IGN);
        expect_arena_works();
        for (const int signal : {SIGSEGV, SIGBUS}) ASSERT_EQ(::kill(::getpid(), signal), 0);
        expect_arena_works();
    });
}

/// Blocks in a read of an empty pipe while another thread sends SIGSEGV; what the read returned once a byte came.
ssize_t interrupted_read() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe(ends.data()), 0);
    std::atomic<pid_t> reader{0};
    ssize_t got = -2;
    int error = 0;
    std::thread thread{[&] {
        reader = ::gettid();
        char byte = 0;
        got = ::read(ends[0], &byte, 1);
        error = errno;
    }};
    while (reader == 0) std::this_thread::yield();
    const std::string syscall_file = "/proc/self/task/" + std::to_string(reader) + "/syscall";
    const auto in_read = [&] {
        const auto text = os::read_file(syscall_file);
        return text && !text->empty() &&
               std::string{reinterpret_cast<const char*>(text->data()), text->size()}.starts_with("0 ");
    };
    while (!in_read()) std::this_thread::yield();
    EXPECT_EQ(::pthread_kill(thread.native_handle(), SIGSEGV), 0);
    // Either the read ends with EINTR, or it goes on and ends with the byte.
    while (seen.count == 0) std::this_thread::yield();
    EXPECT_EQ(::write(ends[1], "x", 1), 1);
    thread.join();
    return got == -1 ? -error : got;
}

TEST_F(ArenaSignal, system_calls_are_restarted_if_the_earlier_handler_asked_for_that) {
    if (test::k_sanitized) GTEST_SKIP() << "sanitizers wrap read and sigaction";
    expect_holds([] {
        host_installs(SIGSEGV, &note, SA_RESTART);
        expect_arena_works();
        EXPECT_EQ(interrupted_read(), 1);
    });
    expect_holds([] {
        host_installs(SIGSEGV, &note);
        expect_arena_works();
        EXPECT_EQ(interrupted_read(), -EINTR);
    });
}

TEST_F(ArenaSignal, a_foreign_fault_inside_a_handler_is_the_nested_one) {
    if (test::k_thread_sanitizer) GTEST_SKIP() << "it blocks the second signal";
    expect_holds([] {
        host_installs(SIGSEGV, [](int signal, siginfo_t* info, void* context) {
            note(signal, info, context);
            touch(page_behind_the_end());  // SIGBUS in the handler of SIGSEGV
        });
        host_installs(SIGBUS, &note_and_jump);
        expect_arena_works();
        touch_and_escape(forbidden_page());
        EXPECT_EQ(seen.count, 2);
        EXPECT_EQ(seen.signal, SIGBUS);
        expect_arena_works();
    });
}

TEST_F(ArenaSignal, the_hosts_handler_may_touch_absent_pages) {
    if (test::k_thread_sanitizer) GTEST_SKIP() << "it blocks the second signal";
    expect_holds([] {
        static std::shared_ptr<ProcessArena> arena;
        host_installs(SIGSEGV, [](int signal, siginfo_t* info, void* context) {
            note(signal, info, context);
            touch(page_at(*arena, static_cast<std::uint64_t>(seen.count)));
            note_and_repair(signal, info, context);
        });
        arena = make_arena(3);
        ASSERT_NE(arena, nullptr);
        repairable = forbidden_page();
        touch(repairable);
        EXPECT_EQ(test::usage(*arena), "1 0");
        arena.reset();
    });
}

TEST_F(ArenaSignal, a_program_may_run_in_a_handler_of_another_signal) {
    if (test::k_thread_sanitizer) GTEST_SKIP() << "it blocks the second signal";
    expect_holds([] {
        static std::shared_ptr<ProcessArena> arena;
        static volatile std::uint64_t faulted = 0;
        arena = make_arena(2);
        ASSERT_NE(arena, nullptr);
        host_installs(SIGUSR1, [](int, siginfo_t*, void*) {
            faulted = nofault::load(number(arena->data()), 8).faulted;
            touch(page_at(*arena, 1));
        });
        ASSERT_EQ(::raise(SIGUSR1), 0);
        EXPECT_EQ(faulted, 1U);
        EXPECT_EQ(test::usage(*arena), "1 0");
        arena.reset();
    });
}

TEST_F(ArenaSignal, a_handler_may_jump_out_again_and_again) {
    expect_holds([] {
        host_installs(SIGSEGV, &note_and_jump, SA_ONSTACK);
        ASSERT_TRUE(fault_handler::prepare_thread());
        const auto arena = make_arena(200);
        ASSERT_NE(arena, nullptr);
        std::byte* const page = forbidden_page();
        for (int turn = 1; turn <= 100; ++turn) {
            touch_and_escape(page);
            ASSERT_EQ(seen.count, turn);
            touch(page_at(*arena, static_cast<std::uint64_t>(turn)));
        }
        EXPECT_EQ(test::usage(*arena), "100 0");
    });
}

// A host that installs its handler after the first arena, and asks ours from it.
TEST_F(ArenaSignal, a_later_handler_of_the_host_may_call_ours) {
    expect_holds([] {
        const auto arena = make_arena(3);
        ASSERT_NE(arena, nullptr);
        for (const int signal : {SIGSEGV, SIGBUS})
            host_installs(signal, [](int number_of_signal, siginfo_t* info, void* context) {
                if (!fault_handler::handle(number_of_signal, info, context))
                    note_and_jump(number_of_signal, info, context);
            });
        touch(arena->data());
        EXPECT_EQ(nofault::load(number(page_at(*arena, 1)), 8).faulted, 1U);
        EXPECT_EQ(seen.count, 0);
        touch_and_escape(forbidden_page());
        EXPECT_EQ(seen.signal, SIGSEGV);
        touch_and_escape(page_behind_the_end());
        EXPECT_EQ(seen.signal, SIGBUS);
        EXPECT_EQ(seen.count, 2);
    });
}

TEST_F(ArenaSignal, a_later_handler_that_calls_ours_gets_refused_touches_as_SIGSEGV) {
    expect_holds([] {
        const auto arena = make_arena({.pages = PageCount{3}, .segv_on_fault = true});
        ASSERT_NE(arena, nullptr);
        for (const int signal : {SIGSEGV, SIGBUS})
            host_installs(signal, [](int number_of_signal, siginfo_t* info, void* context) {
                if (!fault_handler::handle(number_of_signal, info, context))
                    note_and_jump(number_of_signal, info, context);
            });
        touch_and_escape(arena->data() + 9);
        EXPECT_EQ(seen.count, 1);
        EXPECT_EQ(seen.signal, SIGSEGV);
        EXPECT_EQ(seen.info.si_addr, arena->data() + 9);
    });
}

// --- installation
// -----------------------------------------------------------------------------------------------------

TEST_F(ArenaSignal, an_installation_that_failed_half_way_can_be_tried_again) {
    for (const std::uint64_t call : {0U, 1U, 2U, 3U})
        expect_holds([call] {
            host_installs(SIGSEGV, &note_and_jump);
            host_installs(SIGBUS, &note_and_jump);
            {
                os::FailCall refused{os::Call::sigaction, EPERM, call};
                const os::ScopedFaultInjector scope{refused};
                const auto failed = ProcessArena::create({.pages = PageCount{1}});
                ASSERT_FALSE(failed);
                EXPECT_EQ(failed.error().code(), EPERM);
                EXPECT_FALSE(failed.error().message().empty());
            }
            touch_and_escape(page_behind_the_end());
            EXPECT_EQ(seen.count, 1) << "still the host's";
            expect_arena_works();
            touch_and_escape(page_behind_the_end());
            EXPECT_EQ(seen.signal, SIGBUS);
            touch_and_escape(forbidden_page());
            EXPECT_EQ(seen.signal, SIGSEGV);
            EXPECT_EQ(seen.count, 3);
            const pid_t child = ::fork();  // its handlers are registered once, however often installation was tried
            if (child == 0) ::_exit(0);
            int status = -1;
            EXPECT_EQ(::waitpid(child, &status, 0), child);
            EXPECT_EQ(status, 0);
        });
}

}  // namespace
}  // namespace harena
