// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace harena::bpf {

/// What a register or a stack slot holds.
enum class Kind : std::uint8_t {
    unset,      ///< nothing: may not be read
    scalar,     ///< a number; stored pointers too, user pointers among them
    arena,      ///< the program's form of an arena pointer: dereferenced at window + low 32 bits
    stack,      ///< into the frame of this function or of a caller
    context,    ///< into what r1 points to when the program starts
    map_value,  ///< into a value of a map, a key that a callback is given, or a global variable
    map,        ///< a map itself
    function,   ///< a function of the program, for callbacks
};

[[nodiscard]] constexpr std::string_view name_of(Kind kind) noexcept {
    switch (kind) {
        case Kind::unset:
            return "unset";
        case Kind::scalar:
            return "scalar";
        case Kind::arena:
            return "arena";
        case Kind::stack:
            return "stack";
        case Kind::context:
            return "ctx";
        case Kind::map_value:
            return "map_value";
        case Kind::map:
            return "map_ptr";
        case Kind::function:
            return "func";
    }
    return "?";
}

/// Whether the program may learn the bits of such a value: the others are addresses of the host.
[[nodiscard]] constexpr bool is_public(Kind kind) noexcept { return kind == Kind::scalar || kind == Kind::arena; }

/// Whether such a value points into a region of memory with bounds.
[[nodiscard]] constexpr bool is_region(Kind kind) noexcept {
    return kind == Kind::stack || kind == Kind::context || kind == Kind::map_value;
}

/// A kind and, for pointers, what they may reach.
struct Tag {
    Kind kind = Kind::unset;
    bool read_only = false;  // of a region
    std::uint64_t base = 0;  // of a region: its address, which also tells it from others; of a map: the object
    std::uint64_t size = 0;  // of a region, in bytes

    friend bool operator==(const Tag&, const Tag&) noexcept = default;
};

struct Value {
    std::uint64_t bits = 0;
    Tag tag;

    [[nodiscard]] static constexpr Value scalar(std::uint64_t bits) noexcept { return {bits, {.kind = Kind::scalar}}; }
    /// The upper half is cut off.
    [[nodiscard]] static constexpr Value arena(std::uint64_t bits) noexcept {
        return {static_cast<std::uint32_t>(bits), {.kind = Kind::arena}};
    }
    [[nodiscard]] static constexpr Value region(Kind kind, std::uint64_t base, std::uint64_t size,
                                                bool read_only = false) noexcept {
        return {base, {.kind = kind, .read_only = read_only, .base = base, .size = size}};
    }

    [[nodiscard]] constexpr Kind kind() const noexcept { return tag.kind; }
};

}  // namespace harena::bpf
