// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena::kernel {

/// The kernel refused `what` ("program 'count'"), and said `why` about it, or nothing. EPERM names the capabilities
/// that are missing, and other errors what the kernel must have.
[[nodiscard]] Error refusal(os::SysError error, std::string_view what, std::string_view why);

}  // namespace harena::kernel
