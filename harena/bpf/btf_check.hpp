// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include "harena/base/result.hpp"

struct btf_type;

/// What libbpf's BTF parser takes on trust.
namespace harena::bpf {

class Btf;

/// The two parts of a BTF section.
struct BtfSpans {
    std::span<const std::byte> types;
    std::span<const std::byte> strings;
};

/// Checks that the header is little-endian version 1 and that both parts are inside the section and the strings
/// terminated. Errors: EINVAL.
[[nodiscard]] Result<BtfSpans> check_btf_header(std::span<const std::byte> bytes);

/// Checks that every type number and string offset in `type`, which libbpf has found to be complete, is one of `btf`.
/// Errors: EINVAL.
[[nodiscard]] Result<void> check_btf_type(const ::btf_type& type, const Btf& btf);

}  // namespace harena::bpf
