// SPDX-License-Identifier: Apache-2.0
#include "harena/page/pressure_monitor.hpp"

#include <utility>

#include "harena/base/background_thread.hpp"
#include "harena/base/os/pressure.hpp"

namespace harena {

Result<std::unique_ptr<PressureMonitor>> PressureMonitor::start(Shrinker& shrinker, const PressureOptions& options) {
    auto trigger = os::open_pressure_trigger(options.file, options.stall_us, options.window_us);
    if (!trigger)
        return os::fail_with(trigger.error(), fmt::format("{} does not notify of {} us in {} us", options.file,
                                                          options.stall_us, options.window_us));
    return watch(shrinker, *std::move(trigger), options.pages);
}

Result<std::unique_ptr<PressureMonitor>> PressureMonitor::watch(Shrinker& shrinker, os::FileDescriptor trigger,
                                                                PageCount pages) {
    auto stop = os::eventfd();
    if (!stop) return os::fail_with(stop.error(), "cannot make the eventfd that ends a pressure monitor");
    std::unique_ptr<PressureMonitor> monitor{
        new PressureMonitor{shrinker, std::move(trigger), *std::move(stop), pages}};
    HARENA_TRY(monitor->thread_,
               start_background_thread("the thread of a pressure monitor", [raw = monitor.get()] { raw->loop(); }));
    return monitor;
}

PressureMonitor::~PressureMonitor() {
    if (!thread_.joinable()) return;
    if (fork_guard_.owner_dead()) {  // the thread is the parent's, and its eventfd must not be touched
        thread_.detach();
        return;
    }
    (void)os::wake(stop_.get());
    thread_.join();
}

void PressureMonitor::loop() {
    for (;;) {
        const auto woken = os::wait_for_event(trigger_.get(), stop_.get());
        if (!woken || *woken != os::Woken::by_event) {
            watching_.store(false, std::memory_order_relaxed);
            return;
        }
        if (const auto given = shrinker_.shrink(pages_)) given_.fetch_add(given->value(), std::memory_order_relaxed);
        notifications_.fetch_add(1, std::memory_order_relaxed);
    }
}

}  // namespace harena
