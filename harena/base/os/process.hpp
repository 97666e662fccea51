// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "harena/base/os/sys_result.hpp"

namespace harena::os {

/// Runs a program (looked up in PATH unless it has a slash) with this process's standard streams and waits for it.
/// Returns its exit status, or 128 + the signal that ended it. Errors: ENOENT if there is no such program.
[[nodiscard]] SysResult<int> run_program(const std::vector<std::string>& arguments);

/// The first of `names` that is an executable file in a folder of PATH, as a full path; empty if there is none.
[[nodiscard]] std::string find_program(const std::vector<std::string>& names);

/// The path of the running executable; empty if /proc is not there.
[[nodiscard]] std::string executable_path();

/// Nanoseconds of CLOCK_MONOTONIC; async-signal-safe.
[[nodiscard]] std::uint64_t monotonic_ns() noexcept;

/// Nanoseconds of CLOCK_BOOTTIME; async-signal-safe.
[[nodiscard]] std::uint64_t boottime_ns() noexcept;

/// The clock of the CPU time that the calling thread uses, readable by all threads of the process while it lives.
class ThreadCpuClock {
public:
    [[nodiscard]] static ThreadCpuClock of_this_thread() noexcept;
    /// Nanoseconds the thread has run so far. Async-signal-safe.
    [[nodiscard]] std::uint64_t now_ns() const noexcept;

private:
    explicit ThreadCpuClock(clockid_t clock) noexcept : clock_{clock} {}
    clockid_t clock_;
};

/// 64 bits that nobody can guess, or, on a kernel too young to give them, the clock.
[[nodiscard]] std::uint64_t random_u64() noexcept;

[[nodiscard]] int process_id() noexcept;
[[nodiscard]] int thread_id() noexcept;
/// The processor this thread ran on at the time of the call.
[[nodiscard]] unsigned current_cpu() noexcept;
/// The NUMA node of that processor.
[[nodiscard]] unsigned current_node() noexcept;
/// The calling thread's name, at most 15 bytes.
[[nodiscard]] std::string thread_name();

}  // namespace harena::os
