// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/process.hpp"

#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <ctime>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

namespace {

std::uint64_t clock_ns(clockid_t clock) noexcept {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

SysResult<int> run_program(const std::vector<std::string>& arguments) {
    if (const int error = detail::injected(Call::spawn)) return sys_fail(error);
    std::vector<std::string> copies = arguments;
    std::vector<char*> argv;
    argv.reserve(copies.size() + 1);
    for (std::string& copy : copies) argv.push_back(copy.data());
    argv.push_back(nullptr);
    pid_t child = 0;
    if (const int error = ::posix_spawnp(&child, argv[0], nullptr, nullptr, argv.data(), ::environ))
        return sys_fail(error);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return sys_fail(errno);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string find_program(const std::vector<std::string>& names) {
    const char* const path = std::getenv("PATH");
    for (const std::string& name : names) {
        std::string_view rest = path == nullptr ? "/usr/bin:/bin" : path;
        while (!rest.empty()) {
            const std::string_view folder = rest.substr(0, rest.find(':'));
            rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
            std::string candidate = fmt::format("{}/{}", folder, name);
            struct stat status{};
            if (::stat(candidate.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
                ::access(candidate.c_str(), X_OK) == 0)
                return candidate;
        }
    }
    return {};
}

std::string executable_path() {
    std::array<char, PATH_MAX> buffer{};
    const ssize_t length = ::readlink("/proc/self/exe", buffer.data(), buffer.size());
    return length <= 0 ? std::string{} : std::string{buffer.data(), static_cast<std::size_t>(length)};
}

std::uint64_t monotonic_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }
std::uint64_t boottime_ns() noexcept { return clock_ns(CLOCK_BOOTTIME); }

ThreadCpuClock ThreadCpuClock::of_this_thread() noexcept {
    clockid_t clock{};
    // Cannot fail for the calling thread; the fallback only runs faster.
    if (::pthread_getcpuclockid(::pthread_self(), &clock) != 0) clock = CLOCK_PROCESS_CPUTIME_ID;
    return ThreadCpuClock{clock};
}
std::uint64_t ThreadCpuClock::now_ns() const noexcept { return clock_ns(clock_); }

std::uint64_t random_u64() noexcept {
    std::uint64_t value = 0;
    if (::getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) value = monotonic_ns();
    return value;
}

int process_id() noexcept { return ::getpid(); }
int thread_id() noexcept { return ::gettid(); }

unsigned current_node() noexcept {
    unsigned cpu = 0;
    unsigned node = 0;
    return ::getcpu(&cpu, &node) == 0 ? node : 0;
}

unsigned current_cpu() noexcept {
    const int cpu = ::sched_getcpu();
    return cpu < 0 ? 0 : static_cast<unsigned>(cpu);
}

std::string thread_name() {
    std::array<char, 16> name{};
    ::pthread_getname_np(::pthread_self(), name.data(), name.size());
    return name.data();
}

}  // namespace harena::os
