// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tests that need a process of their own: after fork, or with fewer privileges.

#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>

namespace harena::kernel::test {

// The thread sanitizer's runtime kills some children after a fork beside arenas: always where they map arenas, else now
// and then, in its own background thread.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool k_children_work = false;
#else
inline constexpr bool k_children_work = true;
#endif
inline constexpr auto k_why_no_children = "the thread sanitizer kills children after a fork beside arenas";

/// What a child process says of itself.
enum class Child : std::uint8_t { right, wrong, cannot };

/// `in_child` in a forked child.
template <typename Function>
[[nodiscard]] Child forked(Function&& in_child) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(static_cast<int>(in_child()));
    int status = -1;
    if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return Child::wrong;
    return static_cast<Child>(WEXITSTATUS(status));
}

/// Gives up all but these capabilities.
[[nodiscard]] inline bool keep_capabilities(std::uint64_t kept) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
    if (::syscall(SYS_capget, &header, sets) != 0) return false;
    for (std::uint32_t& set : {std::ref(sets[0].effective), std::ref(sets[0].permitted)})
        set &= static_cast<std::uint32_t>(kept);
    for (std::uint32_t& set : {std::ref(sets[1].effective), std::ref(sets[1].permitted)})
        set &= static_cast<std::uint32_t>(kept >> 32);
    return ::syscall(SYS_capset, &header, sets) == 0;
}

}  // namespace harena::kernel::test
