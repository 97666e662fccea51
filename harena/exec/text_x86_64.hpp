// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

/// What the exec layer knows of x86-64's instructions.
namespace harena::text_machine {

/// int3: traps at every byte, and leaves the instruction pointer after it.
inline constexpr std::byte k_trap{0xcc};
inline constexpr std::uintptr_t k_trap_bytes = 1;

/// Whether the processor's vendor promises that an instruction fetch sees an aligned store of 8 bytes whole. AMD's
/// manual does (volume 2, "Cross-Modifying Code"); Intel's wants another way (volume 3, 9.1.3).
[[nodiscard]] bool fetches_aligned_words_whole() noexcept;

}  // namespace harena::text_machine
