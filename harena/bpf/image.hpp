// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "harena/arena/process_arena.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/engine.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/bpf/process_map.hpp"
#include "harena/bpf/prototypes.hpp"
#include "harena/bpf/value.hpp"

namespace harena::bpf {

/// What the programs of one loaded object execute and reach, in the engine of this process. Immutable once made.
///
/// `code` is the object's instructions with every reference resolved: a `ld_imm64` has in `imm` an index into
/// `constants`, a call of a kfunc an index into `kfuncs`.
struct Image {
    std::shared_ptr<const ObjectFile> file;
    std::vector<Insn> code;
    std::vector<Value> constants;
    std::vector<const Prototype*> kfuncs;           // nullptr: weak, and this engine does not have it
    std::shared_ptr<ProcessArena> arena;            // null if the object has none
    ProcessArena::Payer payer{};                    // for what the programs allocate
    std::vector<std::shared_ptr<ProcessMap>> maps;  // as `ObjectFile::maps`
    std::vector<DataMemory> data;                   // as `ObjectFile::data`; owned by the `Object`
    std::function<void(std::string_view)> trace;
    std::uint32_t frame_bytes = k_frame_bytes;
    std::uint32_t max_frames = k_max_frames;
    std::vector<bool> void_functions;  // as `ObjectFile::functions`: what the object's types say

    /// Index in `ObjectFile::functions` of the function that begins at `insn`, which `validate` has checked to exist.
    [[nodiscard]] const Function& function_beginning_at(std::uint32_t insn) const { return *file->function_at(insn); }
    [[nodiscard]] bool is_void(const Function& function) const {
        return void_functions[static_cast<std::size_t>(&function - file->functions.data())];
    }
};

/// Resolves an object's instructions against the arena, the maps and the data of `image` (which has everything but
/// `code`, `constants`, `kfuncs` and `void_functions`). Errors: EINVAL (unknown kfunc, a reference that does not fit),
/// ENOTSUP.
Result<void> link(Image& image);

}  // namespace harena::bpf
