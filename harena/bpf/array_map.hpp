// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "harena/base/zeroed_array.hpp"
#include "harena/bpf/process_map.hpp"

namespace harena::bpf {

/// A map of type ARRAY: `max_entries` values that are always there, by index. Lock-free.
class ArrayMap final : public ProcessMap {
public:
    [[nodiscard]] static Result<std::shared_ptr<ProcessMap>> create(const MapDefinition& definition);

    [[nodiscard]] std::byte* find(const std::byte* key) noexcept override;
    int update_elem(const std::byte* key, const std::byte* value, std::uint64_t flags) noexcept override;
    int delete_elem(const std::byte* key) noexcept override;
    [[nodiscard]] std::byte* next(std::uint64_t& position, std::byte* key) noexcept override;
    [[nodiscard]] std::optional<std::uint64_t> position_behind(const std::byte* key) noexcept override;

private:
    explicit ArrayMap(const MapDefinition& definition);

    std::uint64_t stride_;  // value size, rounded up to 8
    ZeroedArray<std::uint64_t> values_;
};

}  // namespace harena::bpf
