// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <source_location>
#include <string_view>
#include <utility>

#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/vm/vm_window.hpp"

namespace harena {

/// 4 GiB of reserved address space, aligned to 4 GiB, with guards on both sides: a window of the process's `VmSpace`.
///
/// A program reaches `base + (u32)pointer + s16 offset`, and no more than 8 bytes from there: whatever pointer and
/// offset are, that is inside the window and its guards, all of it PROT_NONE where no arena is mapped.
class Window {
public:
    static constexpr std::uint64_t k_bytes = 4 * k_gib;
    static constexpr std::uint64_t k_guard_below = 32 * k_kib;  // an offset of -32768 from pointer 0
    static constexpr std::uint64_t k_guard_above =
        36 * k_kib;  // 8 bytes at pointer 0xffffffff, offset 32767: 32 KiB + 6
    static_assert(k_guard_below >= 32768 && k_guard_above >= 0xffffffffULL + 32767 + 8 - k_bytes);

    /// Reserves the window at `base`, a multiple of 4 GiB, or at random if there is none, for the arena `name`.
    /// Errors: EEXIST (names the mapping in the way), ENOMEM (names the limit where there is one), EFBIG
    /// (RLIMIT_FSIZE), EMFILE. Thread-safe.
    [[nodiscard]] static Result<Window> reserve(std::optional<std::uint64_t> base, std::string_view name = {},
                                                const std::source_location& where = std::source_location::current());

    [[nodiscard]] std::byte* base() const noexcept { return window_.base(); }
    /// Everything that is reserved: the window and its guards.
    [[nodiscard]] std::byte* span_begin() const noexcept { return window_.span_begin(); }
    static constexpr std::uint64_t k_span_bytes = k_guard_below + k_bytes + k_guard_above;

    /// Who knows how many pages it has, until null is set.
    void count_pages_with(const VmPageCounter* counter) noexcept { window_.count_pages_with(counter); }

private:
    explicit Window(VmWindow window) noexcept : window_{std::move(window)} {}

    VmWindow window_;
};

}  // namespace harena
