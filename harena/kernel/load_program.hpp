// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "harena/base/os/bpf.hpp"
#include "harena/base/result.hpp"

namespace harena::kernel {

// Source: Linux, include/uapi/linux/bpf.h.
inline constexpr std::uint32_t k_program_syscall = 31;
inline constexpr std::uint32_t k_program_tracepoint = 17;
inline constexpr std::uint32_t k_program_sleepable = 1U << 4;

/// Has the kernel verify and compile a program; asks again for the verifier's log if it is refused. `place` says of an
/// instruction of the program where it comes from; `verbose` puts the whole log into the error.
[[nodiscard]] Result<os::FileDescriptor> load_program(os::BpfProgramSpec spec, const std::string& what, bool verbose,
                                                      const std::function<std::string(std::uint32_t insn)>& place);

}  // namespace harena::kernel
