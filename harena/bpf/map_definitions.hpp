// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/btf.hpp"
#include "harena/bpf/elf_file.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf {

/// A map and where its variable stands in section `.maps`.
struct PlacedMap {
    MapDefinition definition;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    /// Where in the variable the pointers of member `values` begin; none without that member.
    std::optional<std::uint64_t> values_offset;
};

/// Reads the variables of section `.maps`, in the BTF style of libbpf's bpf_helpers.h, by ascending offset.
///
/// `initial_programs` stays empty here. Errors, each naming map and member: EINVAL (unknown members, malformed types,
/// sizes that contradict each other), ENOTSUP (maps in maps, numa_node). Thread-safe.
[[nodiscard]] Result<std::vector<PlacedMap>> read_map_definitions(const ElfFile& elf, const ElfSection& maps,
                                                                  const Btf& btf);

}  // namespace harena::bpf
