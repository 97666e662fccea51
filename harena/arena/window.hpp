// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/base/types.hpp"

namespace harena {

/// 4 GiB of reserved address space, aligned to 4 GiB, with guards on both sides.
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

    /// Reserves the window at `base`, a multiple of 4 GiB, or at an address that the kernel chooses if there is none.
    /// Errors: EEXIST (names the mapping in the way), ENOMEM (names the limit where there is one). Thread-safe.
    [[nodiscard]] static Result<Window> reserve(std::optional<std::uint64_t> base);

    Window(Window&& other) noexcept : base_{std::exchange(other.base_, nullptr)} {}
    Window& operator=(Window&& other) noexcept {
        std::swap(base_, other.base_);
        return *this;
    }
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;
    /// Gives the address space back, with all that is mapped in it.
    ~Window();

    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    /// Everything that is reserved: the window and its guards.
    [[nodiscard]] std::byte* span_begin() const noexcept { return base_ - k_guard_below; }
    static constexpr std::uint64_t k_span_bytes = k_guard_below + k_bytes + k_guard_above;

private:
    explicit Window(std::byte* base) noexcept : base_{base} {}

    std::byte* base_;
};

}  // namespace harena
