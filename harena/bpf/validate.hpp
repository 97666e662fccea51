// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf {

/// Which functions of an object its loaded programs can reach, by calls and by taking addresses: as
/// `ObjectFile::functions`.
[[nodiscard]] std::vector<bool> reachable_functions(const ObjectFile& file);

/// Checks the form of the reachable instructions, which every engine relies on: known opcodes, reserved fields zero,
/// registers r0 to r10, r10 not written, both halves of `ld_imm64`, jumps to an instruction of the same function and
/// not past its end, local calls to the first instruction of a function, helpers for which `knows_helper(id)` is true.
/// Errors: EINVAL, naming the instruction and its source line; ENOTSUP (packet access by the legacy instructions).
Result<void> validate(const ObjectFile& file, const std::function<bool(std::int32_t)>& knows_helper);

}  // namespace harena::bpf
