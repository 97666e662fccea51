// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::kernel {

/// What one source line of an object is in the BTF that the kernel has: offsets of its strings.
struct LineStrings {
    std::uint32_t file = 0;
    std::uint32_t text = 0;  // `k_text_blanks` blanks, then the text: each offset up to that is the text for people
};
inline constexpr std::uint32_t k_text_blanks = 63;

/// An object's types, loaded into the kernel. Numbers of types are those of the object.
struct ObjectBtf {
    os::FileDescriptor fd;           // none for an object without BTF
    std::vector<LineStrings> lines;  // as `ObjectFile::lines`
    LineStrings no_line;             // for instructions of which the object does not say where they come from
    std::vector<bool> sized_data;    // as `ObjectFile::data`: its DATASEC describes the section exactly
};

/// Makes of an object's BTF what the kernel takes, and loads it. Clang leaves gaps that a linker fills, and the kernel
/// checks: sizes of sections, offsets of variables, names of parameters, where externs are (docs/kernel.md).
/// Errors: those of bpf(BPF_BTF_LOAD), with the kernel's log; ENOMEM.
[[nodiscard]] Result<ObjectBtf> load_btf(const bpf::ObjectFile& file);

}  // namespace harena::kernel
