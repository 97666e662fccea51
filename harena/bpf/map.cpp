// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/map.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace harena::bpf {

namespace {

// Source: Linux, include/uapi/linux/bpf.h, enum bpf_map_type.
constexpr std::array<std::string_view, 34> k_names{"UNSPEC",
                                                   "HASH",
                                                   "ARRAY",
                                                   "PROG_ARRAY",
                                                   "PERF_EVENT_ARRAY",
                                                   "PERCPU_HASH",
                                                   "PERCPU_ARRAY",
                                                   "STACK_TRACE",
                                                   "CGROUP_ARRAY",
                                                   "LRU_HASH",
                                                   "LRU_PERCPU_HASH",
                                                   "LPM_TRIE",
                                                   "ARRAY_OF_MAPS",
                                                   "HASH_OF_MAPS",
                                                   "DEVMAP",
                                                   "SOCKMAP",
                                                   "CPUMAP",
                                                   "XSKMAP",
                                                   "SOCKHASH",
                                                   "CGROUP_STORAGE",
                                                   "REUSEPORT_SOCKARRAY",
                                                   "PERCPU_CGROUP_STORAGE",
                                                   "QUEUE",
                                                   "STACK",
                                                   "SK_STORAGE",
                                                   "DEVMAP_HASH",
                                                   "STRUCT_OPS",
                                                   "RINGBUF",
                                                   "INODE_STORAGE",
                                                   "TASK_STORAGE",
                                                   "BLOOM_FILTER",
                                                   "USER_RINGBUF",
                                                   "CGRP_STORAGE",
                                                   "ARENA"};

}  // namespace

std::string map_type_name(std::uint32_t type) {
    return type < k_names.size() ? std::string{k_names[type]} : fmt::format("type {}", type);
}

Result<void> Map::set_program(std::uint32_t index, Program&) {
    return fail(EOPNOTSUPP, "map '{}' is of type {}: programs go into PROG_ARRAY maps only (index {})", name(),
                map_type_name(definition_.type), index);
}

Result<void> Map::check_key(std::span<const std::byte> key) const {
    if (key.size() == definition_.key_size) return {};
    return fail(EINVAL, "map '{}': the key has {} bytes and must have {}", name(), key.size(), definition_.key_size);
}

Result<void> Map::check_value(std::span<const std::byte> value) const {
    if (value.size() == definition_.value_size) return {};
    return fail(EINVAL, "map '{}': the value has {} bytes and must have {}", name(), value.size(),
                definition_.value_size);
}

}  // namespace harena::bpf
