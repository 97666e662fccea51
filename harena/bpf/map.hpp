// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf {

/// What `Map::update` does about an entry that is there or is not (kernel: BPF_ANY, BPF_NOEXIST, BPF_EXIST).
enum class UpdateMode : std::uint8_t { any = 0, create = 1, replace = 2 };

class Program;

/// A map, for the host. All functions are thread-safe. Keys and values have exactly the sizes of the definition (EINVAL
/// if not). Errors are those of the bpf(2) system call: ENOENT, EEXIST, E2BIG, EOPNOTSUPP, …
class Map {
public:
    explicit Map(MapDefinition definition) : definition_{std::move(definition)} {}
    Map(const Map&) = delete;
    Map& operator=(const Map&) = delete;
    virtual ~Map() = default;

    [[nodiscard]] const MapDefinition& definition() const noexcept { return definition_; }
    [[nodiscard]] const std::string& name() const noexcept { return definition_.name; }

    /// A copy of the value. ENOENT if there is no entry.
    [[nodiscard]] virtual Result<std::vector<std::byte>> lookup(std::span<const std::byte> key) = 0;
    virtual Result<void> update(std::span<const std::byte> key, std::span<const std::byte> value, UpdateMode mode) = 0;
    virtual Result<void> erase(std::span<const std::byte> key) = 0;
    /// The key after `key`, or the first one for nullopt or a key that is not there. ENOENT at the end.
    [[nodiscard]] virtual Result<std::vector<std::byte>> next_key(std::optional<std::span<const std::byte>> key) = 0;

    /// Program arrays: what a tail call to `index` runs. EOPNOTSUPP for other maps.
    virtual Result<void> set_program(std::uint32_t index, Program& program);

protected:
    [[nodiscard]] Result<void> check_key(std::span<const std::byte> key) const;
    [[nodiscard]] Result<void> check_value(std::span<const std::byte> value) const;

private:
    MapDefinition definition_;
};

/// Numbers of the map types (source: Linux, include/uapi/linux/bpf.h).
namespace map_type {
inline constexpr std::uint32_t hash = 1;
inline constexpr std::uint32_t array = 2;
inline constexpr std::uint32_t prog_array = 3;
inline constexpr std::uint32_t arena = 33;
}  // namespace map_type

/// Name of a map type as in BPF C without its prefix, such as "ARENA"; "type 99" for one that is not known.
[[nodiscard]] std::string map_type_name(std::uint32_t type);

}  // namespace harena::bpf
