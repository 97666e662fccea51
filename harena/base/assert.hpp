// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <source_location>
#include <string_view>

namespace harena {

/// Whether precondition bugs of the caller abort with a message (debug and sanitizer builds).
#ifdef HARENA_DEBUG_CHECKS
inline constexpr bool k_debug_checks = true;
#else
inline constexpr bool k_debug_checks = false;
#endif

namespace detail {
[[noreturn]] void precondition_failed(std::string_view what, const std::source_location& where) noexcept;
}  // namespace detail

/// Aborts with `what` and the place of the call in debug builds if `holds` is false; nothing in release builds.
/// For bugs of the caller only: what untrusted input can cause is an `Error`.
inline void precondition(bool holds, std::string_view what,
                         const std::source_location& where = std::source_location::current()) noexcept {
    if constexpr (k_debug_checks) {
        if (!holds) detail::precondition_failed(what, where);
    }
}

}  // namespace harena
