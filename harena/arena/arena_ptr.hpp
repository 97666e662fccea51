// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "harena/arena/arena.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// Whether objects of type T can be in an arena, which programs and other processes read and write as bytes: atomics,
/// plain structures and arrays of them can, what has a destructor or a virtual function cannot.
template <typename T>
inline constexpr bool k_arena_type = std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>;

/// A link of 32 bits to a T in an arena, for structures that host and programs share: the low half of the user address,
/// 0 for null. A program has it as `HARENA_LINK(struct t)` (include-bpf/harena/arena.h).
///
/// Whoever writes to the arena can give it any value. `get` returns a pointer to a whole T in the arena or null; it
/// reads the link once, so that the arena may change meanwhile. A link that others may be changing is written by
/// `store`. What it leads to is just as untrusted. T may be an incomplete type until a function is called.
template <typename T>
class ArenaPtr {
public:
    /// Null.
    constexpr ArenaPtr() noexcept = default;

    /// The link to `object`; to null if that is null. Errors: ERANGE (not all of it is in the arena), EINVAL (not
    /// aligned, or at the address that programs take for null). Thread-safe.
    [[nodiscard]] static Result<ArenaPtr> to(const Arena& arena, const T* object) {
        static_assert(k_arena_type<T>, "contents of an arena are shared with programs, which know no constructors");
        if (object == nullptr) return ArenaPtr{};
        const auto address = reinterpret_cast<std::uint64_t>(object);
        if (!arena.contains(object, sizeof(T)))
            return fail(ERANGE, "{} bytes at {:#x} are not all in arena '{}'", sizeof(T), address, arena.name());
        if (!is_aligned(address, alignof(T)))
            return fail(EINVAL, "{:#x} is no multiple of {}, which an object there is aligned to", address, alignof(T));
        if (static_cast<std::uint32_t>(address) == 0)
            return fail(EINVAL, "the low 32 bits of {:#x} are 0: programs take that for null", address);
        return of_bits(static_cast<std::uint32_t>(address));
    }

    [[nodiscard]] static constexpr ArenaPtr of_bits(std::uint32_t bits) noexcept {
        ArenaPtr made;
        made.bits_ = bits;
        return made;
    }

    /// The first of `count` (1 or more) T that lie in the arena as a whole, aligned; null if they do not, and for null.
    /// What was written before the link was stored can be read through it. Thread-safe.
    [[nodiscard]] T* get(const Arena& arena, std::uint64_t count = 1) const noexcept {
        static_assert(k_arena_type<T>, "contents of an arena are shared with programs, which know no constructors");
        const std::uint32_t low = bits();
        // The whole arena has one upper half: it lies in a window.
        const std::uint64_t address = (arena.user_vm_start().value() & ~std::uint64_t{0xffff'ffff}) | low;
        auto* const object = reinterpret_cast<T*>(address);
        if (low == 0 || !is_aligned(address, alignof(T)) || count > arena.size() / sizeof(T)) return nullptr;
        return arena.contains(object, count * sizeof(T)) ? object : nullptr;
    }

    /// Read once, with acquire ordering.
    [[nodiscard]] std::uint32_t bits() const noexcept { return __atomic_load_n(&bits_, __ATOMIC_ACQUIRE); }
    /// Changes the link as a whole, with release ordering: whoever follows it finds what was written before.
    void store(ArenaPtr value) noexcept { __atomic_store_n(&bits_, value.bits_, __ATOMIC_RELEASE); }

    [[nodiscard]] explicit operator bool() const noexcept { return bits() != 0; }
    [[nodiscard]] friend bool operator==(const ArenaPtr& a, const ArenaPtr& b) noexcept { return a.bits() == b.bits(); }

private:
    std::uint32_t bits_ = 0;
};

static_assert(sizeof(ArenaPtr<int>) == 4 && alignof(ArenaPtr<int>) == 4);
static_assert(std::is_trivially_copyable_v<ArenaPtr<int>> && std::is_standard_layout_v<ArenaPtr<int>>);
static_assert(k_arena_type<ArenaPtr<int>>);

}  // namespace harena
