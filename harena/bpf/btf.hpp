// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "harena/base/result.hpp"

struct btf;
struct btf_type;

namespace harena::bpf {

/// Number of a type in an object's BTF; 0 is void and, where a type is optional, none.
using TypeId = std::uint32_t;
inline constexpr TypeId k_no_type = 0;

/// Strings of BTF longer than this (kernel: PATH_MAX) are cut when they are read.
inline constexpr std::size_t k_max_btf_string_bytes = 4095;

/// An object's type information (section `.BTF`), parsed by libbpf. Immutable and thread-safe.
///
/// After `parse`, every type number and string offset in it is in range, so that the accessors of <bpf/btf.h> may be
/// used on what `type` returns; chains of types may still be loops.
class Btf {
public:
    /// Errors: EINVAL. libbpf's parser accepts some malformed graphs: every walk here is bounded and checked.
    [[nodiscard]] static Result<std::shared_ptr<const Btf>> parse(std::span<const std::byte> bytes);

    [[nodiscard]] const ::btf* get() const noexcept { return btf_.get(); }

    /// How many type numbers there are, void included.
    [[nodiscard]] TypeId type_count() const noexcept { return type_count_; }
    /// The type of that number, or nullptr for void and for numbers that do not exist.
    [[nodiscard]] const ::btf_type* type(TypeId type) const noexcept;
    /// The string at `offset`, cut after `k_max_btf_string_bytes`; empty if there is none. Valid as long as this
    /// object.
    [[nodiscard]] std::string_view string(std::uint32_t offset) const noexcept;
    /// How many bytes of strings there are: offsets below it are valid.
    [[nodiscard]] std::uint32_t string_bytes() const noexcept { return string_bytes_; }
    /// The type's own name; empty for none.
    [[nodiscard]] std::string_view identifier_of(TypeId type) const noexcept;

    /// Follows typedefs, const, volatile, restrict and type tags. Errors: EINVAL (a loop).
    [[nodiscard]] Result<TypeId> skip_modifiers(TypeId type) const;
    /// The DATASEC of that section name, or `k_no_type`.
    [[nodiscard]] TypeId find_data_section(std::string_view section_name) const noexcept;

    /// Size in bytes of a complete type. Errors: EINVAL (no such type, a type without a size, a loop).
    [[nodiscard]] Result<std::uint64_t> size_of(TypeId type) const;
    /// C-like name of a type for people, such as `struct node`, `unsigned int`, `char[16]`, `struct node __arena *`.
    [[nodiscard]] std::string name_of(TypeId type) const;

private:
    struct Free {
        void operator()(::btf* btf) const noexcept;
    };
    explicit Btf(std::unique_ptr<::btf, Free> btf) noexcept : btf_{std::move(btf)} {}

    std::unique_ptr<::btf, Free> btf_;
    TypeId type_count_ = 1;
    std::uint32_t string_bytes_ = 0;
    std::map<std::string_view, TypeId> data_sections_;
};

}  // namespace harena::bpf
