// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/sys_result.hpp"

namespace harena::os::detail {

/// Makes one system call that returns 0 or more on success, unless the injector fails it first.
template <typename Function>
SysResult<void> invoke(Call call, Function&& function) noexcept {
    if (const int error = injected(call)) return sys_fail(error);
    if (function() < 0) return sys_fail(errno);
    return {};
}

}  // namespace harena::os::detail
