// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "harena/base/not_inherited.hpp"
#include "harena/base/result.hpp"

namespace harena::kernel {

/// The memory of a map of the kernel, mapped into this process. Forked children have an inaccessible reservation
/// instead, whenever they are forked: the range is registered before the map's memory is put there, and the memory is
/// gone before it is no longer.
class MapMemory {
public:
    /// At `address`, or, if that is 0, wherever it does not cross a multiple of 4 GiB. Whole pages.
    /// Errors: EEXIST (something is there), and the others of mmap and `NotInherited::of`.
    [[nodiscard]] static Result<MapMemory> create(int map, std::uint64_t address, std::uint64_t bytes);
    MapMemory(MapMemory&& other) noexcept;
    MapMemory& operator=(MapMemory&&) = delete;
    MapMemory(const MapMemory&) = delete;
    MapMemory& operator=(const MapMemory&) = delete;
    ~MapMemory();

    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

private:
    MapMemory(std::byte* data, std::uint64_t bytes) noexcept : data_{data}, bytes_{bytes} {}

    std::byte* data_;  // null: moved from
    std::uint64_t bytes_;
    std::optional<NotInherited> not_inherited_;
};

}  // namespace harena::kernel
