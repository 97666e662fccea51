// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/refusal.hpp"

#include <array>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harena/base/os/system_info.hpp"

namespace harena::kernel {

namespace {

std::string names_of(Capabilities set) {
    constexpr std::array k_names{std::pair{k_cap_bpf, "CAP_BPF"}, std::pair{k_cap_perfmon, "CAP_PERFMON"},
                                 std::pair{k_cap_net_admin, "CAP_NET_ADMIN"}};
    std::vector<std::string_view> names;
    for (const auto& [capability, name] : k_names)
        if ((set & capability) != 0) names.emplace_back(name);
    return fmt::format("{}", fmt::join(names, " and "));
}

}  // namespace

std::string describe_missing(Capabilities needed, Capabilities has) {
    const Capabilities missing = (has & k_cap_sys_admin) != 0 ? 0 : needed & ~has;
    if (missing == needed) return fmt::format("{} are needed, or root", names_of(needed));
    if (missing != 0) return fmt::format("{} is missing; {} are needed, or root", names_of(missing), names_of(needed));
    return fmt::format(
        "this process has {}, but perhaps only in its user namespace, and it is the initial one's that "
        "count; or a security module forbids it",
        names_of(needed));
}

Error refusal(os::SysError error, std::string_view what, std::string_view why, Capabilities needed) {
    std::string message = fmt::format("the kernel refuses {}", what);
    switch (error.code) {
        case EPERM:
            message += ": EPERM, " + describe_missing(needed, os::effective_capabilities().value_or(0));
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
