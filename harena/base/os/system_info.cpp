// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/system_info.hpp"

#include <linux/bpf.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "harena/base/os/bpf.hpp"
#include "harena/base/os/memory.hpp"

namespace harena::os {

namespace {

// Linux 6.9, include/uapi/linux/bpf.h; the headers of Debian 12 do not have it.
constexpr std::uint32_t k_map_type_arena = 33;

}  // namespace

std::string kernel_release() {
    utsname names{};
    return ::uname(&names) == 0 ? names.release : "unknown";
}

std::uint64_t memory_pages() noexcept {
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? static_cast<std::uint64_t>(pages) : 0;
}

SysResult<std::uint64_t> effective_capabilities() noexcept {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
    if (::syscall(SYS_capget, &header, sets) != 0) return sys_fail(errno);
    return std::uint64_t{sets[1].effective} << 32 | sets[0].effective;
}

SysResult<void> try_memfd_secret() noexcept {
    if (const auto made = memfd_secret(); !made) return std::unexpected{made.error()};
    return {};
}

SysResult<void> try_kernel_arena() noexcept {
    const auto map = bpf_map_create({.type = k_map_type_arena, .max_entries = 1, .flags = BPF_F_MMAPABLE});
    if (!map) return std::unexpected{map.error()};
    return {};
}

}  // namespace harena::os
