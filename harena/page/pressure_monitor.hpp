// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "harena/base/fork.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/page/shrinker.hpp"

namespace harena {

struct PressureOptions {
    /// Pages that are asked for at each notification.
    PageCount pages{4096};
    /// When the kernel notifies: some process waited for memory for `stall_us` of the last `window_us` microseconds.
    /// Without CAP_SYS_RESOURCE, the window is a multiple of 2 s.
    std::uint64_t stall_us = 150'000;
    std::uint64_t window_us = 2'000'000;
    /// The machine's pressure, or that of a cgroup (memory.pressure).
    std::string file = "/proc/pressure/memory";
};

/// Shrinks something whenever the kernel says that memory is short (PSI), on a thread of its own, as long as it lives.
class PressureMonitor {
public:
    /// `shrinker` outlives the monitor. Errors: ENOENT, EOPNOTSUPP (a kernel without PSI), EPERM, EACCES, EINVAL (the
    /// times), EAGAIN (no thread).
    [[nodiscard]] static Result<std::unique_ptr<PressureMonitor>> start(Shrinker& shrinker,
                                                                        const PressureOptions& options = {});
    /// The same for any descriptor that polls as POLLPRI when memory is short.
    [[nodiscard]] static Result<std::unique_ptr<PressureMonitor>> watch(Shrinker& shrinker, os::FileDescriptor trigger,
                                                                        PageCount pages);
    PressureMonitor(const PressureMonitor&) = delete;
    PressureMonitor& operator=(const PressureMonitor&) = delete;
    /// Waits for a notification that is being served.
    ~PressureMonitor();

    /// False when no more notifications will come: the trigger has ended, or cannot be waited for.
    [[nodiscard]] bool watching() const noexcept { return watching_.load(std::memory_order_relaxed); }
    /// Notifications so far, and pages that were given because of them.
    [[nodiscard]] std::uint64_t notifications() const noexcept {
        return notifications_.load(std::memory_order_relaxed);
    }
    [[nodiscard]] PageCount given() const noexcept { return PageCount{given_.load(std::memory_order_relaxed)}; }

private:
    PressureMonitor(Shrinker& shrinker, os::FileDescriptor trigger, os::FileDescriptor stop, PageCount pages) noexcept
        : shrinker_{shrinker}, trigger_{std::move(trigger)}, stop_{std::move(stop)}, pages_{pages} {}
    void loop();

    Shrinker& shrinker_;
    os::FileDescriptor trigger_;
    os::FileDescriptor stop_;
    PageCount pages_;
    std::atomic<bool> watching_{true};
    std::atomic<std::uint64_t> notifications_{0};
    std::atomic<std::uint64_t> given_{0};
    ForkGuard fork_guard_;
    std::thread thread_;
};

}  // namespace harena
