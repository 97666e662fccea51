// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "harena/bpf/insn.hpp"

namespace harena::bpf {

/// One instruction in the kernel verifier's notation, such as `r1 = *(u64 *)(r2 + 8)`, `if r1 s> 5 goto +3`,
/// `r1 = addr_space_cast(r2, 1, 0)`, `lock *(u32 *)(r1 + 0) += w2`, `may_goto +4`, `call 7`. `code` begins with the
/// instruction; one of 16 bytes needs its second half there. An instruction that does not exist gives
/// `(invalid opcode 0xff)` and so on: never an error, whatever the bytes are. Thread-safe.
///
/// As in Linux and LLVM, a cast names the space it casts to first: `(…, 0, 1)` gives the program's arena pointer and
/// `(…, 1, 0)` the user pointer.
[[nodiscard]] std::string disassemble(std::span<const Insn> code);

}  // namespace harena::bpf
