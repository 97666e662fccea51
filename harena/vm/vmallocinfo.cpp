// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/vmallocinfo.hpp"

#include "harena/base/page_math.hpp"

namespace harena {

std::string_view name_of(VmKind kind) noexcept {
    switch (kind) {
        case VmKind::alloc:
            return "vmalloc";
        case VmKind::map:
            return "vmap";
        case VmKind::ram:
            return "vm_map_ram";
        case VmKind::ioremap:
            return "ioremap";
        case VmKind::sparse:
            return "sparse";
        case VmKind::backed:
            return "backed";
    }
    return "unknown";
}

std::string to_line(const VmAreaInfo& area, const std::vector<std::uint64_t>& pages_of_nodes) {
    const std::uint64_t begin = reinterpret_cast<std::uint64_t>(area.begin) - area.guard_below;
    const std::uint64_t bytes = area.guard_below + area.bytes + area.guard_bytes;
    std::string line = fmt::format("{:#018x}-{:#018x} {:>8}", begin, begin + bytes, bytes);
    if (area.unpurged) return line + " unpurged vm_area\n";
    line += ' ' + area.where;
    if (!area.name.empty()) line += fmt::format(" [{}]", area.name);
    if (area.pages != 0) line += fmt::format(" pages={}", area.pages);
    if (area.kind == VmKind::ioremap) line += fmt::format(" phys={:#018x}", area.file_offset);
    if (area.kind == VmKind::backed) line += " sparse";
    line += fmt::format(" {}", name_of(area.kind));
    if (area.user) line += " user";
    if (area.exec) line += " exec";
    // Where the list of pages is larger than a page.
    if (area.kind == VmKind::alloc && area.pages * sizeof(void*) > k_page_size) line += " vpages";
    for (std::size_t node = 0; node < pages_of_nodes.size(); ++node)
        if (pages_of_nodes[node] != 0) line += fmt::format(" N{}={}", node, pages_of_nodes[node]);
    return line + '\n';
}

}  // namespace harena
