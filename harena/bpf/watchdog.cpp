// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/watchdog.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <new>
#include <thread>

#include "harena/base/background_thread.hpp"
#include "harena/base/fork.hpp"
#include "harena/base/immortal.hpp"
#include "harena/base/os/process.hpp"

namespace harena::bpf {

namespace {

constexpr std::chrono::milliseconds k_tick{1};

constinit std::mutex start_mutex;
constinit std::atomic<Watchdog*> the_watchdog{nullptr};

void before_fork() noexcept { start_mutex.lock(); }
void after_fork_in_parent() noexcept { start_mutex.unlock(); }
// The parent's thread is not here, and its lock may be held for ever: the old watchdog is left alone.
void after_fork_in_child() noexcept {
    the_watchdog.store(nullptr);
    start_mutex.unlock();
}

}  // namespace

Watchdog::Watch::Watch(Watchdog& watchdog, RunControl& control, std::uint64_t budget_ns,
                       std::uint64_t grace_ns) noexcept
    : watchdog_{watchdog}, control_{control}, budget_ns_{budget_ns}, grace_ns_{grace_ns} {
    const std::lock_guard lock{watchdog_.mutex_};
    next_ = watchdog_.first_;
    if (next_ != nullptr) next_->previous_ = this;
    watchdog_.first_ = this;
    if (watchdog_.idle_) watchdog_.wake_.notify_one();
}

Watchdog::Watch::~Watch() {
    const std::lock_guard lock{watchdog_.mutex_};
    if (next_ != nullptr) next_->previous_ = previous_;
    (previous_ != nullptr ? previous_->next_ : watchdog_.first_) = next_;
}

Result<Watchdog*> Watchdog::instance() {
    if (Watchdog* const running = the_watchdog.load(std::memory_order_acquire)) return running;
    const std::lock_guard lock{start_mutex};
    if (Watchdog* const running = the_watchdog.load(std::memory_order_acquire)) return running;
    static ForkRules rules;
    HARENA_CHECK_OK(
        rules.ensure({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child}));
    // Never destroyed: its thread runs until the process ends.
    auto* const watchdog = new (std::nothrow) Watchdog;
    if (watchdog == nullptr) return fail(ENOMEM, "no memory for the watchdog of running programs");
    auto thread =
        start_background_thread("the watchdog that ends programs over their budget", [watchdog] { watchdog->loop(); });
    if (!thread) {
        delete watchdog;
        return pass_on(thread.error());
    }
    thread->detach();
    the_watchdog.store(watchdog, std::memory_order_release);
    return watchdog;
}

void Watchdog::loop() {
    std::unique_lock lock{mutex_};
    for (;;) {
        if (first_ == nullptr) {
            idle_ = true;
            wake_.wait(lock, [this] { return first_ != nullptr; });
            idle_ = false;
        }
        // The new run is seen at the first tick after this one.
        tick(os::monotonic_ns());
        lock.unlock();
        std::this_thread::sleep_for(k_tick);
        lock.lock();
    }
}

void Watchdog::tick(std::uint64_t now_ns) noexcept {
    for (Watch* watch = first_; watch != nullptr; watch = watch->next_) {
        if (watch->started_ns_ == 0) watch->started_ns_ = now_ns;
        if (now_ns - watch->started_ns_ < watch->budget_ns_) continue;
        watch->control_.soft.store(true, std::memory_order_relaxed);
        const std::uint64_t used_ns = watch->cpu_clock_.now_ns();
        if (!watch->grace_started_ns_) watch->grace_started_ns_ = used_ns;
        if (used_ns - *watch->grace_started_ns_ >= watch->grace_ns_)
            watch->control_.hard.store(true, std::memory_order_relaxed);
    }
}

}  // namespace harena::bpf
