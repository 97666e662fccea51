// SPDX-License-Identifier: Apache-2.0
#include "harena/base/assert.hpp"

#include <cstdlib>

#include <fmt/format.h>

namespace harena::detail {

void precondition_failed(std::string_view what, const std::source_location& where) noexcept {
    fmt::print(stderr, "{}:{}: {}: precondition failed: {}\n", where.file_name(), where.line(), where.function_name(),
               what);
    std::abort();
}

}  // namespace harena::detail
