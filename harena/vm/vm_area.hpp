// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "harena/page/page.hpp"

namespace harena {

enum class VmKind : std::uint8_t {
    alloc,    // vmalloc: pages of its own
    map,      // vmap: pages of the caller
    ram,      // vm_map_ram: for a moment
    ioremap,  // a range of a file or device
    sparse,   // pages come and go inside of it
    backed,   // sparse, with a file of its own and presence by userfaultfd
};

/// What may be done with mapped memory.
enum class VmProtection : std::uint8_t { read, read_write };

/// What is known of an area at some moment.
struct VmAreaInfo {
    std::byte* begin = nullptr;
    /// Bytes that can be mapped, and bytes of guard after and before them (0: none).
    std::uint64_t bytes = 0;
    std::uint64_t guard_bytes = 0;
    std::uint64_t guard_below = 0;
    VmKind kind = VmKind::alloc;
    /// Free, but its addresses are not yet: something is still mapped there.
    bool unpurged = false;
    /// Meant for BPF programs or other guests; holds text.
    bool user = false;
    bool exec = false;
    /// Pages mapped now.
    std::uint64_t pages = 0;
    /// Of an ioremap: where in the file.
    std::uint64_t file_offset = 0;
    /// Who asked for it: "file:line".
    std::string where;
    /// What it is called, if it has a name.
    std::string name;
};

}  // namespace harena
