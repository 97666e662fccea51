// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/btf.hpp"

namespace harena::bpf {

/// "The function at this instruction has this BTF type."
struct BtfFuncInfo {
    std::uint32_t insn_offset = 0;  // bytes from the begin of the section
    TypeId type = k_no_type;
};

/// "This instruction comes from this line." String offsets are those of the object's BTF.
struct BtfLineInfo {
    std::uint32_t insn_offset = 0;  // bytes from the begin of the section
    std::uint32_t file = 0;
    std::uint32_t text = 0;
    std::uint32_t line = 0;
    std::uint32_t column = 0;
};

/// A CO-RE relocation, as far as messages need it.
struct BtfCoreRelocation {
    std::string_view section;
    std::uint32_t insn_offset = 0;
};

/// The records of one code section. Their instruction offsets are unchecked, their string offsets are valid.
template <typename Record>
struct BtfExtSection {
    std::string_view section;
    std::vector<Record> records;
};

/// Section `.BTF.ext`: what instructions have to do with types and source lines.
struct BtfExt {
    std::vector<BtfExtSection<BtfFuncInfo>> functions;
    std::vector<BtfExtSection<BtfLineInfo>> lines;
    std::optional<BtfCoreRelocation> first_core_relocation;

    /// Parses the section. Its names are views into `btf`, which must outlive the result. Errors: EINVAL, with the
    /// offset. Thread-safe.
    [[nodiscard]] static Result<BtfExt> parse(std::span<const std::byte> bytes, const Btf& btf);
};

}  // namespace harena::bpf
