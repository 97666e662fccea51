// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string_view>
#include <thread>

#include "harena/base/result.hpp"

namespace harena {

/// Starts a thread of the library: all signals are blocked on it, since those of the host are for the host's threads.
/// When this returns, it runs. `what` says what it is for, in an error. Errors: EAGAIN (no thread to be had), ENOMEM.
[[nodiscard]] Result<std::thread> start_background_thread(std::string_view what, std::function<void()> body);

}  // namespace harena
