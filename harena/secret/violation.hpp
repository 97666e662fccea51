// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace harena {

/// What a caller did to secret memory that no caller may do.
enum class Violation : std::uint8_t {
    double_free,
    not_allocated,
    overrun,
    underrun,
    written_after_free,
    record_overwritten,
};

/// Prints which secret it was, by its address and nothing of what is in it, and aborts. `bytes` 0: not known.
[[noreturn]] void stop_after(Violation violation, const void* secret, std::size_t bytes = 0) noexcept;

}  // namespace harena
