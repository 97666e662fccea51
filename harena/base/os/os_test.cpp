// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/file.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/io.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/signal.hpp"
#include "harena/base/page_math.hpp"

namespace harena::os {
namespace {

std::string temporary_path(const char* name) {
    return ::testing::TempDir() + "harena_os_test_" + std::to_string(::getpid()) + name;
}

std::span<const std::byte> bytes_of_text(std::string_view text) {
    return std::as_bytes(std::span{text.data(), text.size()});
}

TEST(FailCall, fails_one_call_of_its_kind_or_all_from_it_on) {
    FailCall once{Call::mmap, ENOMEM, 1};
    EXPECT_EQ(once.on_call(Call::mmap), 0);
    EXPECT_EQ(once.on_call(Call::munmap), 0);
    EXPECT_EQ(once.on_call(Call::mmap), ENOMEM);
    EXPECT_EQ(once.on_call(Call::mmap), 0);
    EXPECT_EQ(once.seen(), 3U);
    FailCall always{Call::mmap, EAGAIN, 1, FailCall::Repeat::always};
    EXPECT_EQ(always.on_call(Call::mmap), 0);
    EXPECT_EQ(always.on_call(Call::mmap), EAGAIN);
    EXPECT_EQ(always.on_call(Call::mmap), EAGAIN);
}

// Each function asks the injector for its own kind and makes no call if that says so.
TEST(FaultInjection, every_call_fails_under_its_name) {
    const auto failing = [](Call call, auto&& function) {
        FailCall injector{call, EUCLEAN};
        const ScopedFaultInjector scope{injector};
        const auto result = function();
        EXPECT_EQ(injector.seen(), 1U) << static_cast<int>(call);
        return !result && result.error().code == EUCLEAN;
    };
    EXPECT_TRUE(failing(Call::mmap, [] { return mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }));
    EXPECT_TRUE(failing(Call::munmap, [] { return munmap(nullptr, 0); }));
    EXPECT_TRUE(failing(Call::mprotect, [] { return mprotect(nullptr, 0, PROT_NONE); }));
    EXPECT_TRUE(failing(Call::mlock, [] { return mlock(nullptr, 0); }));
    EXPECT_TRUE(failing(Call::memfd_secret, [] { return memfd_secret(); }));
    EXPECT_TRUE(failing(Call::getrandom, [] { return fill_random(nullptr, 0); }));
    EXPECT_TRUE(failing(Call::munlock, [] { return munlock(nullptr, 0); }));
    EXPECT_TRUE(failing(Call::madvise, [] { return madvise(nullptr, 0, MADV_NORMAL); }));
    EXPECT_TRUE(failing(Call::memfd_create, [] { return memfd_create("x"); }));
    EXPECT_TRUE(failing(Call::ftruncate, [] { return ftruncate(-1, 0); }));
    EXPECT_TRUE(failing(Call::fallocate, [] { return punch_hole(-1, 0, 4096); }));
    EXPECT_TRUE(failing(Call::pwrite, [] { return pwrite(-1, "", 1, 0); }));
    EXPECT_TRUE(failing(Call::add_seals, [] { return add_seals(-1, F_SEAL_SEAL); }));
    EXPECT_TRUE(failing(Call::getrlimit, [] { return getrlimit(RLIMIT_AS); }));
    EXPECT_TRUE(failing(Call::userfaultfd, [] { return userfaultfd(); }));
    EXPECT_TRUE(failing(Call::uffd_api, [] { return uffd_api(-1, 0); }));
    EXPECT_TRUE(failing(Call::uffd_register, [] { return uffd_register_missing(-1, nullptr, 0); }));
    EXPECT_TRUE(failing(Call::uffd_zeropage, [] { return uffd_zeropage(-1, nullptr, 0); }));
    EXPECT_TRUE(failing(Call::sigaction, [] { return sigaction(SIGUSR1, nullptr); }));
    EXPECT_TRUE(failing(Call::sigaltstack, [] { return sigaltstack(nullptr); }));
    EXPECT_TRUE(failing(Call::sigmask, [] { return thread_sigmask(SIG_BLOCK, nullptr); }));
    EXPECT_TRUE(failing(Call::open, [] { return read_file("/proc/self/maps"); }));
    EXPECT_TRUE(failing(Call::read, [] { return read_file("/proc/self/maps"); }));
    EXPECT_TRUE(failing(Call::write, [] { return write_file("/dev/null", bytes_of_text("x")); }));
    EXPECT_TRUE(failing(Call::read, [] { return read(-1, nullptr, 0); }));
    EXPECT_TRUE(failing(Call::write, [] { return write(-1, nullptr, 0); }));
    EXPECT_TRUE(failing(Call::readv, [] { return readv(-1, {}); }));
    EXPECT_TRUE(failing(Call::writev, [] { return writev(-1, {}); }));
    EXPECT_TRUE(failing(Call::recv, [] { return recv(-1, nullptr, 0, 0); }));
    EXPECT_TRUE(failing(Call::send, [] { return send(-1, nullptr, 0, 0); }));
    EXPECT_TRUE(failing(Call::recvmsg, [] {
        msghdr message{};
        return recvmsg(-1, message, 0);
    }));
    EXPECT_TRUE(failing(Call::sendmsg, [] { return sendmsg(-1, msghdr{}, 0); }));
    EXPECT_TRUE(failing(Call::open, [] { return open_for_reading("/dev/null"); }));
    EXPECT_TRUE(failing(Call::stat, [] { return facts_of("/dev/null"); }));
    EXPECT_TRUE(failing(Call::stat, [] { return facts_of(0); }));
    EXPECT_TRUE(failing(Call::stat, [] { return is_hugetlb(0); }));
    EXPECT_TRUE(failing(Call::pagemap_scan, [] { return scan_huge_pages(-1, 0, 4096, {}); }));
    EXPECT_TRUE(failing(Call::spawn, [] { return run_program({"true"}); }));
}

TEST(FaultInjection, ends_with_its_scope) {
    FailCall injector{Call::memfd_create, ENFILE, 0, FailCall::Repeat::always};
    {
        const ScopedFaultInjector scope{injector};
        EXPECT_FALSE(memfd_create("x"));
    }
    EXPECT_TRUE(memfd_create("x"));
}

TEST(SysError, describes_itself_by_name_and_text) {
    EXPECT_EQ(describe({ENOMEM}), "ENOMEM, Cannot allocate memory");
    EXPECT_EQ(describe({99'999}), "error 99999");
    const std::unexpected<Error> error = fail_with({EPERM}, "cannot open the door");
    EXPECT_EQ(error.error().code(), EPERM);
    EXPECT_EQ(error.error().message(), "cannot open the door: EPERM, Operation not permitted");
}

TEST(FileDescriptor, closes_once_and_moves) {
    auto made = memfd_create("descriptor");
    ASSERT_TRUE(made);
    const int number = made->get();
    {
        FileDescriptor owner = std::move(*made);
        EXPECT_EQ(made->get(), -1);
        EXPECT_EQ(owner.get(), number);
        FileDescriptor other;
        other = std::move(owner);
        EXPECT_EQ(other.get(), number);
        EXPECT_GE(::fcntl(number, F_GETFD), 0);
    }
    EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

TEST(FileDescriptor, released_ones_stay_open) {
    auto made = memfd_create("descriptor");
    ASSERT_TRUE(made);
    const int number = made->get();
    made->release();
    made->reset();
    EXPECT_GE(::fcntl(number, F_GETFD), 0);
    EXPECT_EQ(::close(number), 0);
}

TEST(Inspect, facts_of_a_file_are_the_same_by_path_and_by_descriptor) {
    const auto file = memfd_create("facts");
    ASSERT_TRUE(file);
    ASSERT_TRUE(ftruncate(file->get(), 3 * k_page_size));
    ASSERT_TRUE(pwrite(file->get(), "x", 1, k_page_size));
    const auto by_descriptor = facts_of(file->get());
    const auto by_path = facts_of(fmt::format("/proc/self/fd/{}", file->get()));
    ASSERT_TRUE(by_descriptor && by_path);
    EXPECT_TRUE(by_descriptor->same_file(*by_path));
    EXPECT_EQ(by_path->bytes, 3 * k_page_size);
    EXPECT_EQ(by_path->bytes_in_use, k_page_size);
    EXPECT_TRUE(by_path->regular);
    EXPECT_FALSE(facts_of("/dev/null")->regular);
    EXPECT_FALSE(facts_of("/dev/null")->same_file(*by_path));
    EXPECT_EQ(facts_of("/nowhere").error().code, ENOENT);
}

TEST(Inspect, a_pipe_without_a_writer_is_not_waited_for) {
    const std::string path = temporary_path("pipe");
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    EXPECT_TRUE(open_for_reading(path));
    ::unlink(path.c_str());
    EXPECT_EQ(open_for_reading(path).error().code, ENOENT);
}

TEST(Inspect, huge_pages_are_found_where_they_are) {
    const auto pagemap = open_for_reading("/proc/self/pagemap");
    ASSERT_TRUE(pagemap);
    constexpr std::uint64_t k_bytes = 4 * k_huge_page_size;
    void* const mapped = mmap(nullptr, k_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value();
    const std::uint64_t begin = align_up(reinterpret_cast<std::uint64_t>(mapped), k_huge_page_size);
    auto* const second = reinterpret_cast<std::byte*>(begin + k_huge_page_size);
    std::memset(second, 1, k_huge_page_size);
    std::array<AddressRange, 4> found{};
    const auto collapsed = madvise(second, k_huge_page_size, k_madv_collapse);
    const auto scan = scan_huge_pages(pagemap->get(), begin, begin + 3 * k_huge_page_size, found);
    EXPECT_TRUE(munmap(mapped, k_bytes));
    if (!scan && scan.error().code == ENOTTY) GTEST_SKIP() << "a kernel before 6.7";
    ASSERT_TRUE(scan) << describe(scan.error());
    if (!collapsed) GTEST_SKIP() << "no huge page to be had: " << describe(collapsed.error());
    EXPECT_EQ(scan->next, begin + 3 * k_huge_page_size);
    ASSERT_EQ(scan->ranges, 1U);
    EXPECT_EQ(found[0].begin, begin + k_huge_page_size);
    EXPECT_EQ(found[0].end, begin + 2 * k_huge_page_size);
}

TEST(File, comes_back_as_it_was_written) {
    const std::string path = temporary_path("file");
    for (const std::size_t size : {0U, 1U, 65'535U, 65'536U, 65'537U, 300'000U}) {
        std::string text(size, '\0');
        for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31);
        ASSERT_TRUE(write_file(path, bytes_of_text(text)));
        const auto back = read_file(path);
        ASSERT_TRUE(back);
        ASSERT_EQ(back->size(), size);
        EXPECT_TRUE(std::equal(back->begin(), back->end(), bytes_of_text(text).begin()));
    }
    std::filesystem::remove(path);
}

TEST(File, errors_are_those_of_the_system) {
    EXPECT_EQ(read_file("/nonexistent/file").error().code, ENOENT);
    EXPECT_EQ(read_file("/proc").error().code, EISDIR);
    EXPECT_EQ(write_file("/nonexistent/file", {}).error().code, ENOENT);
    EXPECT_EQ(write_file("/dev/full", bytes_of_text("x")).error().code, ENOSPC);
}

TEST(File, files_of_proc_are_read_whole) {
    const auto maps = read_file("/proc/self/maps");
    ASSERT_TRUE(maps);
    const std::string text{reinterpret_cast<const char*>(maps->data()), maps->size()};
    EXPECT_NE(text.find("[stack]"), std::string::npos);
}

TEST(Memory, find_mapping_names_what_overlaps_and_nothing_else) {
    const auto page = mmap(nullptr, 3 * k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_TRUE(page);
    auto* const at = static_cast<std::byte*>(*page);
    const auto begin = reinterpret_cast<std::uint64_t>(at) + k_page_size;
    const auto file = memfd_create("named");
    ASSERT_TRUE(file);
    ASSERT_TRUE(ftruncate(file->get(), k_page_size));
    ASSERT_TRUE(mmap(at + k_page_size, k_page_size, PROT_READ, MAP_SHARED | MAP_FIXED, file->get(), 0));
    const auto found = find_mapping(begin, 1);
    ASSERT_TRUE(found);
    EXPECT_NE(found->find("named"), std::string::npos) << *found;
    EXPECT_EQ(found->find("  "), std::string::npos) << "spaces are folded: " << *found;
    ASSERT_TRUE(munmap(at + k_page_size, k_page_size));
    EXPECT_FALSE(find_mapping(begin, k_page_size));
    EXPECT_TRUE(find_mapping(begin, k_page_size + 1));
    EXPECT_TRUE(find_mapping(begin - 1, 1));
    ASSERT_TRUE(munmap(at, 3 * k_page_size));
}

TEST(Memory, a_memfd_is_closed_on_exec_can_be_sealed_and_punched) {
    const auto file = memfd_create("sealed");
    ASSERT_TRUE(file);
    EXPECT_NE(::fcntl(file->get(), F_GETFD) & FD_CLOEXEC, 0);
    ASSERT_TRUE(ftruncate(file->get(), 2 * k_page_size));
    ASSERT_TRUE(add_seals(file->get(), F_SEAL_SHRINK | F_SEAL_GROW));
    EXPECT_EQ(ftruncate(file->get(), k_page_size).error().code, EPERM);
    EXPECT_EQ(pwrite(file->get(), "abc", 3, k_page_size).value(), 3U);
    char byte = 0;
    EXPECT_EQ(::pread(file->get(), &byte, 1, k_page_size), 1);
    EXPECT_EQ(byte, 'a');
    ASSERT_TRUE(punch_hole(file->get(), k_page_size, k_page_size));
    EXPECT_EQ(::pread(file->get(), &byte, 1, k_page_size), 1);
    EXPECT_EQ(byte, 0);
    EXPECT_EQ(ftruncate(-1, 0).error().code, EBADF);
}

// A shared mapping of three pages of its own, watched by a userfaultfd.
class Zeropage : public ::testing::Test {
protected:
    void SetUp() override {
        auto uffd = userfaultfd();
        ASSERT_TRUE(uffd) << describe(uffd.error());
        uffd_ = std::move(*uffd);
        ASSERT_TRUE(uffd_api(uffd_.get(), UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM));
        auto file = memfd_create("zeropage");
        ASSERT_TRUE(file);
        ASSERT_TRUE(ftruncate(file->get(), 3 * k_page_size));
        const auto mapped = mmap(nullptr, 3 * k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
        ASSERT_TRUE(mapped);
        at_ = static_cast<char*>(*mapped);
        ASSERT_TRUE(uffd_register_missing(uffd_.get(), at_, 3 * k_page_size));
    }
    void TearDown() override {
        if (at_ != nullptr) {
            EXPECT_TRUE(munmap(at_, 3 * k_page_size));
        }
    }

    FileDescriptor uffd_;
    char* at_ = nullptr;
};

TEST_F(Zeropage, fills_a_range) {
    EXPECT_EQ(uffd_zeropage(uffd_.get(), at_, 3 * k_page_size).value(), 3 * k_page_size);
    EXPECT_EQ(at_[2 * k_page_size], 0);
}

TEST_F(Zeropage, stops_at_a_page_that_is_there_and_says_how_far_it_came) {
    ASSERT_TRUE(uffd_zeropage(uffd_.get(), at_ + k_page_size, k_page_size));
    at_[k_page_size] = 'x';
    EXPECT_EQ(uffd_zeropage(uffd_.get(), at_, 3 * k_page_size).value(), k_page_size);
    EXPECT_EQ(uffd_zeropage(uffd_.get(), at_ + k_page_size, 2 * k_page_size).error().code, EEXIST);
    EXPECT_EQ(at_[k_page_size], 'x');
}

TEST_F(Zeropage, says_when_there_is_no_such_range) {
    EXPECT_FALSE(uffd_zeropage(uffd_.get(), at_ + 1, k_page_size));
    EXPECT_FALSE(uffd_zeropage(uffd_.get(), at_ + 3 * k_page_size, k_page_size));
}

TEST(Memory, node_0_is_online_and_impossible_ones_are_not) {
    EXPECT_TRUE(numa_node_online(0));
    EXPECT_FALSE(numa_node_online(-1));
    EXPECT_FALSE(numa_node_online(-2));
    EXPECT_FALSE(numa_node_online(1'000'000));
}

TEST(Process, run_program_gives_the_exit_status) {
    EXPECT_EQ(run_program({"true"}).value(), 0);
    EXPECT_EQ(run_program({"sh", "-c", "exit 7"}).value(), 7);
    EXPECT_EQ(run_program({"sh", "-c", "kill -9 $$"}).value(), 128 + 9);
    EXPECT_EQ(run_program({"/nonexistent/program"}).error().code, ENOENT);
}

TEST(Process, find_program_takes_the_first_name_that_exists) {
    EXPECT_TRUE(find_program({"no-such-program-here"}).empty());
    const std::string shell = find_program({"no-such-program-here", "sh"});
    ASSERT_FALSE(shell.empty());
    EXPECT_TRUE(shell.starts_with('/'));
    EXPECT_TRUE(shell.ends_with("/sh"));
}

TEST(Process, knows_itself) {
    EXPECT_EQ(process_id(), ::getpid());
    EXPECT_EQ(thread_id(), ::gettid());
    EXPECT_TRUE(std::filesystem::exists(executable_path()));
    EXPECT_LE(thread_name().size(), 15U);
    const std::uint64_t first = monotonic_ns();
    EXPECT_GT(first, 0U);
    EXPECT_GE(monotonic_ns(), first);
    EXPECT_GE(boottime_ns(), 1U);
}

TEST(Process, a_thread_uses_cpu_time_only_while_it_runs) {
    const ThreadCpuClock mine = ThreadCpuClock::of_this_thread();
    const std::uint64_t before = mine.now_ns();
    std::thread{[&] {
        const ThreadCpuClock other = ThreadCpuClock::of_this_thread();
        const std::uint64_t start = other.now_ns();
        while (other.now_ns() < start + 20'000'000) {
        }
    }}.join();
    // This thread waited: a clock of the wall or of the process would show those 20 ms.
    EXPECT_LT(mine.now_ns() - before, 20'000'000U);
    while (mine.now_ns() == before) {
    }
}

siginfo_t received{};

TEST(Signal, a_queued_signal_arrives_with_its_details) {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the thread sanitizer delivers it some time later";
#endif
    struct sigaction action{};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t* info, void*) { received = *info; };
    const auto before = sigaction(SIGUSR2, &action);
    ASSERT_TRUE(before);
    siginfo_t sent{};
    sent.si_signo = SIGUSR2;
    sent.si_code = SI_QUEUE;
    sent.si_value.sival_int = 4711;
    ASSERT_TRUE(queue_signal_to_self(SIGUSR2, sent));
    EXPECT_EQ(received.si_value.sival_int, 4711);
    EXPECT_EQ(received.si_code, SI_QUEUE);
    const auto installed = sigaction(SIGUSR2, &*before);
    ASSERT_TRUE(installed);
    EXPECT_EQ(installed->sa_sigaction, action.sa_sigaction);
}

TEST(Signal, thread_sigmask_gives_what_was_blocked_before) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    const auto before = thread_sigmask(SIG_BLOCK, &one);
    ASSERT_TRUE(before);
    EXPECT_EQ(sigismember(&*before, SIGUSR1), 0);
    const auto now = thread_sigmask(SIG_SETMASK, &*before);
    ASSERT_TRUE(now);
    EXPECT_EQ(sigismember(&*now, SIGUSR1), 1);
}

}  // namespace
}  // namespace harena::os
