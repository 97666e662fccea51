// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "harena/arena/arena.hpp"
#include "harena/base/result.hpp"
#include "harena/bpf/engine.hpp"
#include "harena/bpf/map.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/bpf/program.hpp"

namespace harena::bpf {

struct OpenOptions {
    /// Overrides the arena's `map_extra` (`user_vm_start`); 0 lets the library choose.
    std::optional<std::uint64_t> arena_address = std::nullopt;
    /// Overrides the arena's `max_entries`, in pages.
    std::optional<PageCount> arena_pages = std::nullopt;
    /// Programs of `SEC("?…")` to load all the same, by name.
    std::vector<std::string> also_load = {};
    /// The only program to load, besides those that the object's program arrays begin with; empty: all that are not in
    /// a section `?…`.
    std::string only_load = {};
};

/// A BPF object: opened from a file, inspected, its globals set; then loaded into an engine, and its programs run.
///
///     auto object = Object::open("count.bpf.o");
///     *object->global<int>("limit").value() = 10;
///     object->load(Engine::process());
///     auto result = object->program("count").value()->run();
///
/// Not thread-safe itself; arena, maps and programs of a loaded object are, and live as long as it. Errors name the
/// object.
class Object {
public:
    /// Errors: those of reading the file; EINVAL (malformed: section and offset are named), ENOTSUP (needs what harena
    /// does not have: named).
    [[nodiscard]] static Result<Object> open(const std::string& path, const OpenOptions& options = {});
    [[nodiscard]] static Result<Object> open(std::span<const std::byte> bytes, std::string name,
                                             const OpenOptions& options = {});
    Object(Object&&) noexcept;
    Object& operator=(Object&&) noexcept;
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;
    /// No program may be running.
    ~Object();

    /// The object as it stands in its file.
    [[nodiscard]] const ObjectFile& file() const noexcept { return *file_; }

    /// Makes arena and maps and readies the programs. Once (EBUSY). Errors: those of `Arena::create`; EINVAL and
    /// ENOTSUP for maps, helpers and instructions that the engine does not take: named with their place.
    Result<void> load(Engine& engine, const LoadOptions& options = {});

    /// Of a loaded object. Errors: EINVAL (not loaded), ENOENT (no such; what there is, is listed).
    [[nodiscard]] Result<Program*> program(std::string_view name) const;
    [[nodiscard]] Result<Map*> map(std::string_view name) const;
    /// ENOENT if the object has no arena.
    [[nodiscard]] Result<std::shared_ptr<Arena>> arena() const;
    /// The programs of a loaded object in the order of the file.
    [[nodiscard]] std::vector<Program*> programs() const;

    /// A global variable of the object, in `.data`, `.bss`, `.rodata` or, once loaded, in the arena. `T` must have the
    /// variable's size, and its place the alignment of `T` (EINVAL); a variable of `.rodata` can be written before
    /// loading only: take it as `const T` later (EPERM). The pointer holds as long as the object. Programs may read and
    /// write the variable at the same time.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    [[nodiscard]] Result<T*> global(std::string_view name) const {
        HARENA_TRY(std::byte* const address, find_global(name, sizeof(T), alignof(T), std::is_const_v<T>));
        return reinterpret_cast<T*>(address);
    }

private:
    struct State;

    explicit Object(std::unique_ptr<State> state) noexcept;
    [[nodiscard]] static Result<Object> make(ObjectFile file, const OpenOptions& options);
    [[nodiscard]] Result<std::byte*> find_global(std::string_view name, std::size_t size, std::size_t alignment,
                                                 bool for_reading) const;

    std::shared_ptr<const ObjectFile> file_;
    std::unique_ptr<State> state_;
};

}  // namespace harena::bpf
