// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace harena::kernel {

/// The last `count` lines of a text that are not blank, joined by "; ".
[[nodiscard]] std::string last_lines(std::string_view text, unsigned count);

/// What matters in a log of the kernel's verifier that ends in a refusal: the last instruction that it looked at, and
/// what it said about it, on one line. `place` says of an instruction's number where it comes from.
[[nodiscard]] std::string shortened(std::string_view log, const std::function<std::string(std::uint32_t insn)>& place);

}  // namespace harena::kernel
