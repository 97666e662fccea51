// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/refusal.hpp"

#include <cerrno>
#include <string>

#include <fmt/format.h>

#include "harena/base/os/system_info.hpp"

namespace harena::kernel {

Error refusal(os::SysError error, std::string_view what, std::string_view why) {
    std::string message = fmt::format("the kernel refuses {}", what);
    switch (error.code) {
        case EPERM:
            message += ": EPERM, the kernel engine needs CAP_BPF and CAP_PERFMON, or root";
            break;
        case ENOSYS:
            message += fmt::format(": ENOSYS, Linux {} here has no bpf system call, or this process may not make it",
                                   os::kernel_release());
            break;
        default:
            message += fmt::format(": {}", os::describe(error));
            break;
    }
    if (!why.empty()) message += fmt::format(": {}", why);
    return {error.code, std::move(message)};
}

}  // namespace harena::kernel
