// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>

#include "harena/base/os/process.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/run_control.hpp"

namespace harena::bpf {

/// Ends programs that run too long: one thread of the process that ticks every millisecond while programs run, and
/// sleeps while none does. A run starts at the first tick that sees it, so that starting one costs no clock read.
/// The budget is wall time. The grace is CPU time of the running thread: on a busy machine that thread may be away for
/// longer than the whole grace, and a program that would have left its loop is not ended for it.
class Watchdog {
public:
    /// A run of the calling thread under watch, as long as this object lives. `control` outlives it.
    class Watch {
    public:
        Watch(Watchdog& watchdog, RunControl& control, std::uint64_t budget_ns, std::uint64_t grace_ns) noexcept;
        Watch(const Watch&) = delete;
        Watch& operator=(const Watch&) = delete;
        ~Watch();

    private:
        friend class Watchdog;
        Watchdog& watchdog_;
        RunControl& control_;
        std::uint64_t budget_ns_;
        std::uint64_t grace_ns_;
        os::ThreadCpuClock cpu_clock_ = os::ThreadCpuClock::of_this_thread();
        std::uint64_t started_ns_ = 0;                   // 0: no tick has seen it
        std::optional<std::uint64_t> grace_started_ns_;  // of `cpu_clock_`; none: within the budget
        Watch* next_ = nullptr;
        Watch* previous_ = nullptr;
    };

    /// The watchdog of this process, made and started at the first call; a child after fork gets its own.
    /// Errors: EAGAIN (no thread to be had). Thread-safe.
    [[nodiscard]] static Result<Watchdog*> instance();

private:
    Watchdog() = default;
    void loop();
    void tick(std::uint64_t now_ns) noexcept;

    std::mutex mutex_;  // protects all below; a leaf of the lock order
    std::condition_variable wake_;
    Watch* first_ = nullptr;
    bool idle_ = false;
};

}  // namespace harena::bpf
