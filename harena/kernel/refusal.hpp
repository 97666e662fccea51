// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena::kernel {

/// Sets of capabilities: bit i is CAP_* number i.
using Capabilities = std::uint64_t;
inline constexpr Capabilities k_cap_net_admin = Capabilities{1} << 12;
inline constexpr Capabilities k_cap_sys_admin = Capabilities{1} << 21;
inline constexpr Capabilities k_cap_perfmon = Capabilities{1} << 38;
inline constexpr Capabilities k_cap_bpf = Capabilities{1} << 39;
/// What the engine itself needs.
inline constexpr Capabilities k_engine_capabilities = k_cap_bpf | k_cap_perfmon;

/// The kernel refused `what` ("program 'count'"), and said `why` about it, or nothing. EPERM names those of
/// `needed` that are missing, and other errors what the kernel must have.
[[nodiscard]] Error refusal(os::SysError error, std::string_view what, std::string_view why,
                            Capabilities needed = k_engine_capabilities);

/// What EPERM means for a process with the effective capabilities `has`: "CAP_BPF is missing".
[[nodiscard]] std::string describe_missing(Capabilities needed, Capabilities has);

}  // namespace harena::kernel
