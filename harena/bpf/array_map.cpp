// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/array_map.hpp"

#include <cerrno>
#include <cstring>
#include <new>

#include "harena/arena/nofault.hpp"
#include "harena/base/page_math.hpp"

namespace harena::bpf {

ArrayMap::ArrayMap(const MapDefinition& d)
    : ProcessMap{d}, stride_{align_up(d.value_size, 8)}, values_{stride_ / 8 * d.max_entries} {}

Result<std::shared_ptr<ProcessMap>> ArrayMap::create(const MapDefinition& d) {
    // Flags that only change how the kernel keeps the map: BPF_F_MMAPABLE, BPF_F_NUMA_NODE, BPF_F_RDONLY_PROG and the
    // like would change what a program may do, and are refused.
    constexpr std::uint32_t k_mmapable = 1U << 10;
    if (d.key_size != 4) return fail(EINVAL, "map '{}': the key of an ARRAY has 4 bytes, not {}", d.name, d.key_size);
    if ((d.flags & ~k_mmapable) != 0)
        return fail(EINVAL, "map '{}': map_flags {:#x} are not known for ARRAY", d.name, d.flags);
    return std::shared_ptr<ProcessMap>{new ArrayMap{d}};
}

std::byte* ArrayMap::find(const std::byte* key) noexcept {
    std::uint32_t index = 0;
    std::memcpy(&index, key, sizeof index);
    if (index >= definition().max_entries) return nullptr;
    return reinterpret_cast<std::byte*>(values_.data()) + index * stride_;
}

int ArrayMap::update_elem(const std::byte* key, const std::byte* value, std::uint64_t flags) noexcept {
    if (flags > static_cast<std::uint64_t>(UpdateMode::replace)) return -EINVAL;
    std::byte* const at = find(key);
    if (at == nullptr) return -E2BIG;
    if (flags == static_cast<std::uint64_t>(UpdateMode::create)) return -EEXIST;
    nofault::copy_to(reinterpret_cast<std::uintptr_t>(at), value, definition().value_size);
    return 0;
}

int ArrayMap::delete_elem(const std::byte*) noexcept { return -EINVAL; }

std::byte* ArrayMap::next(std::uint64_t& position, std::byte* key) noexcept {
    if (position >= definition().max_entries) return nullptr;
    const auto index = static_cast<std::uint32_t>(position++);
    std::memcpy(key, &index, sizeof index);
    return find(key);
}

std::optional<std::uint64_t> ArrayMap::position_behind(const std::byte* key) noexcept {
    std::uint32_t index = 0;
    std::memcpy(&index, key, sizeof index);
    if (index >= definition().max_entries) return std::nullopt;
    return std::uint64_t{index} + 1;
}

}  // namespace harena::bpf
