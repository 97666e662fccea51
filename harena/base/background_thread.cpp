// SPDX-License-Identifier: Apache-2.0
#include "harena/base/background_thread.hpp"

#include <cerrno>
#include <latch>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "harena/base/os/signal.hpp"

namespace harena {

Result<std::thread> start_background_thread(std::string_view what, std::function<void()> body) {
    sigset_t all;
    sigfillset(&all);
    const auto before = os::thread_sigmask(SIG_SETMASK, &all);
    Result<std::thread> thread;
    try {
        // Until it runs, it may hold locks of what starts threads (a sanitizer's), which the child of a fork would
        // inherit held.
        const auto running = std::make_shared<std::latch>(1);
        thread = std::thread{[running, body = std::move(body)] {
            running->count_down();
            body();
        }};
        running->wait();
    } catch (const std::system_error& error) {
        thread = fail(error.code().value(), "cannot start {}: {}", what, error.what());
    } catch (const std::bad_alloc&) {
        thread = fail(ENOMEM, "no memory to start {}", what);
    }
    if (before) (void)os::thread_sigmask(SIG_SETMASK, &*before);
    return thread;
}

}  // namespace harena
