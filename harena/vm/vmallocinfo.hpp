// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harena/vm/vm_area.hpp"

namespace harena {

/// "vmalloc", "vmap", "vm_map_ram", "ioremap", "sparse", "backed"; "unknown" for what is none.
[[nodiscard]] std::string_view name_of(VmKind kind) noexcept;

/// One line of vmallocinfo: "begin-end bytes who pages= phys= words N0=". `pages_of_nodes`: how many of its pages are
/// on each NUMA node, if that is known.
[[nodiscard]] std::string to_line(const VmAreaInfo& area, const std::vector<std::uint64_t>& pages_of_nodes = {});

}  // namespace harena
