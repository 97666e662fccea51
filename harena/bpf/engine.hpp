// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "harena/arena/arena.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/map.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/bpf/program.hpp"
#include "harena/page/page_account.hpp"

namespace harena::bpf {

/// Memory of the `.data`, `.bss` and `.rodata` sections, page-aligned, at the same place from `Object::open` on.
struct DataMemory {
    std::byte* address = nullptr;  // null for the arena's globals before the object is loaded
    std::uint64_t size = 0;
    bool read_only = false;            // for programs
    std::shared_ptr<std::byte> owner;  // null where the arena owns it
};

struct LoadOptions {
    /// Where `bpf_trace_printk` goes; stderr if empty. Called on the thread that runs the program, perhaps on
    /// several at once; must not throw.
    std::function<void(std::string_view line)> trace{};
    /// Bytes of stack of one function (a multiple of 8, 512 to 32,768), and how deep calls may go (1 to 64).
    std::uint32_t frame_bytes = k_frame_bytes;
    std::uint32_t max_frames = k_max_frames;
    /// The process engine only. How the object's arena is used, if it is made now.
    ArenaTuning tuning{};
    /// The process engine only. An arena that is there already, of this process or another one, instead of a new one:
    /// it must be what the object's definition says (EINVAL).
    std::shared_ptr<ProcessArena> arena{};
    /// Pays for what the object's programs allocate, if the arena charges callers; null for nobody.
    std::shared_ptr<PageAccount> account{};
    /// Errors of the kernel engine have the verifier's whole log instead of the part that matters.
    bool verbose_log = false;
};

/// What an engine makes of an object.
struct LoadedObject {
    std::shared_ptr<Arena> arena;            // null if the object has none
    std::vector<std::shared_ptr<Map>> maps;  // as `ObjectFile::maps`
    std::vector<std::unique_ptr<Program>> programs;
    std::vector<DataMemory> data;  // as `ObjectFile::data`
};

/// Where programs run.
class Engine {
public:
    Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    virtual ~Engine() = default;

    /// The engine of this process: no privileges needed. Thread-safe.
    [[nodiscard]] static Engine& process() noexcept;

    [[nodiscard]] virtual std::string_view name() const noexcept = 0;

    /// Makes the arena and the maps of an object, resolves what its instructions refer to, and readies its programs.
    /// `data` holds the contents of the global variables. Called by `Object::load`. Thread-safe.
    [[nodiscard]] virtual Result<LoadedObject> load(std::shared_ptr<const ObjectFile> file,
                                                    std::vector<DataMemory> data, const LoadOptions& options) = 0;
};

}  // namespace harena::bpf
