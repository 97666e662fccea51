// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/window.hpp"

#include <cerrno>

#include "harena/vm/vm_space.hpp"

namespace harena {

Result<Window> Window::reserve(std::optional<std::uint64_t> base, std::string_view name,
                               const std::source_location& where) {
    HARENA_TRY(VmSpace* const space, VmSpace::process());
    auto window = space->take_window({.bytes = k_bytes,
                                      .alignment = k_bytes,
                                      .guard_below = k_guard_below,
                                      .guard_above = k_guard_above,
                                      .address = base,
                                      .user = true,
                                      .name = name,
                                      .where = where});
    if (window) return Window{*std::move(window)};
    if (window.error().code() == EEXIST)
        return fail(EEXIST, "{}; choose another user_vm_start", window.error().message());
    return pass_on(std::move(window).error());
}

}  // namespace harena
