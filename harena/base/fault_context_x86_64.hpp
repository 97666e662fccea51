// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ucontext.h>

#include <cstdint>

/// The machine state that a signal handler was given. Async-signal-safe.
namespace harena::fault_context {

/// The instruction that faulted.
[[nodiscard]] inline std::uintptr_t instruction(const void* context) noexcept {
    return static_cast<std::uintptr_t>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
}

/// Where the thread goes on when the handler returns.
inline void set_instruction(void* context, std::uintptr_t instruction) noexcept {
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(instruction);
}

}  // namespace harena::fault_context
