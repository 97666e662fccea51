// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace harena {

/// An ELF file, in memory, that says of [address, address + bytes) that it is a function called `name`, and nothing
/// more: there is no code in it. Throws std::bad_alloc.
[[nodiscard]] std::vector<char> symbol_elf(std::uint64_t address, std::uint64_t bytes, std::string_view name);

}  // namespace harena
