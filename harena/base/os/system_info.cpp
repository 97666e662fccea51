// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/system_info.hpp"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace harena::os {

namespace {

#ifdef SYS_memfd_secret
constexpr long k_memfd_secret = SYS_memfd_secret;
#else
constexpr long k_memfd_secret = 447;  // the same on all architectures
#endif

// Linux 6.9, include/uapi/linux/bpf.h; the headers of Debian 12 do not have it.
constexpr std::uint32_t k_map_type_arena = 33;

SysResult<void> made_and_closed(long fd) noexcept {
    if (fd < 0) return sys_fail(errno);
    const FileDescriptor closed{static_cast<int>(fd)};
    return {};
}

}  // namespace

std::string kernel_release() {
    utsname names{};
    return ::uname(&names) == 0 ? names.release : "unknown";
}

std::uint64_t memory_pages() noexcept {
    const long pages = ::sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? static_cast<std::uint64_t>(pages) : 0;
}

SysResult<void> try_memfd_secret() noexcept { return made_and_closed(::syscall(k_memfd_secret, 0U)); }

SysResult<void> try_kernel_arena() noexcept {
    bpf_attr attributes{};
    attributes.map_type = k_map_type_arena;
    attributes.max_entries = 1;
    attributes.map_flags = BPF_F_MMAPABLE;
    return made_and_closed(::syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)));
}

}  // namespace harena::os
