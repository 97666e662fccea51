// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/process_map.hpp"

#include <cerrno>
#include <cstring>

#include "harena/arena/nofault.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/bpf/array_map.hpp"
#include "harena/bpf/hash_map.hpp"

namespace harena::bpf {

namespace {

Result<void> check_sizes(const MapDefinition& d) {
    // Source: Linux, array_map_alloc_check and htab_map_alloc_check.
    constexpr std::uint32_t k_max_value = 1U << 30;
    if (d.max_entries == 0) return fail(EINVAL, "map '{}': max_entries is 0", d.name);
    if (d.key_size == 0 || d.key_size > ProcessMap::k_max_key_bytes)
        return fail(d.key_size == 0 ? EINVAL : E2BIG, "map '{}': key_size {} is not 1 to {}", d.name, d.key_size,
                    ProcessMap::k_max_key_bytes);
    if (d.value_size == 0 || d.value_size > k_max_value)
        return fail(d.value_size == 0 ? EINVAL : E2BIG, "map '{}': value_size {} is not 1 to {}", d.name, d.value_size,
                    k_max_value);
    return {};
}

Error map_error(int negative_errno, const Map& map, std::string_view call) {
    const os::SysError error{-negative_errno};
    return {error.code, fmt::format("map '{}': {}: {}", map.name(), call, os::describe(error))};
}

}  // namespace

Result<std::shared_ptr<ProcessMap>> ProcessMap::create(const MapDefinition& d) try {
    HARENA_CHECK_OK(check_sizes(d));
    switch (d.type) {
        case map_type::array:
            return ArrayMap::create(d);
        case map_type::hash:
            return HashMap::create(d);
        case map_type::prog_array:
            if (d.key_size != 4 || d.value_size != 4)
                return fail(EINVAL, "map '{}': key and value of a PROG_ARRAY have 4 bytes", d.name);
            if (d.flags != 0)
                return fail(EINVAL, "map '{}': map_flags {:#x} are not known for PROG_ARRAY", d.name, d.flags);
            return std::make_shared<ProgramArray>(d);
        default:
            break;
    }
    return fail(ENOTSUP,
                "map '{}' is a map of {}, which this engine does not have (it has ARENA, ARRAY, HASH and PROG_ARRAY)",
                d.name, map_type_name(d.type));
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map '{}': no memory for {} entries of {} + {} bytes", d.name, d.max_entries, d.key_size,
                d.value_size);
}

Result<std::vector<std::byte>> ProcessMap::lookup(std::span<const std::byte> key) try {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    HARENA_CHECK_OK(check_key(key));
    std::byte* const value = find(key.data());
    if (value == nullptr) return pass_on(map_error(-ENOENT, *this, "lookup"));
    std::vector<std::byte> copy(definition().value_size);
    nofault::copy_from(copy.data(), reinterpret_cast<std::uintptr_t>(value), copy.size());
    return copy;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map '{}': no memory for a copy of {} bytes", name(), definition().value_size);
}

Result<void> ProcessMap::update(std::span<const std::byte> key, std::span<const std::byte> value, UpdateMode mode) {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    HARENA_CHECK_OK(check_key(key));
    HARENA_CHECK_OK(check_value(value));
    if (const int error = update_elem(key.data(), value.data(), static_cast<std::uint64_t>(mode)); error != 0)
        return pass_on(map_error(error, *this, "update"));
    return {};
}

Result<void> ProcessMap::erase(std::span<const std::byte> key) {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    HARENA_CHECK_OK(check_key(key));
    if (const int error = delete_elem(key.data()); error != 0) return pass_on(map_error(error, *this, "delete"));
    return {};
}

Result<std::vector<std::byte>> ProcessMap::next_key(std::optional<std::span<const std::byte>> key) {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    if (key) HARENA_CHECK_OK(check_key(*key));
    std::vector<std::byte> found(definition().key_size);
    std::uint64_t position = key ? position_behind(key->data()).value_or(0) : 0;
    if (next(position, found.data()) != nullptr) return found;
    return pass_on(map_error(-ENOENT, *this, "next key"));
}

Result<std::vector<std::byte>> ArenaMap::lookup(std::span<const std::byte>) {
    return fail(EINVAL, "map '{}' is an arena: it has no elements; use its memory", name());
}
Result<void> ArenaMap::update(std::span<const std::byte>, std::span<const std::byte>, UpdateMode) {
    return fail(EOPNOTSUPP, "map '{}' is an arena: it has no elements; use its memory", name());
}
Result<void> ArenaMap::erase(std::span<const std::byte>) {
    return fail(EOPNOTSUPP, "map '{}' is an arena: it has no elements; use its memory", name());
}
Result<std::vector<std::byte>> ArenaMap::next_key(std::optional<std::span<const std::byte>>) {
    return fail(EOPNOTSUPP, "map '{}' is an arena: it has no elements; use its memory", name());
}
int ArenaMap::update_elem(const std::byte*, const std::byte*, std::uint64_t) noexcept { return -EOPNOTSUPP; }
int ArenaMap::delete_elem(const std::byte*) noexcept { return -EOPNOTSUPP; }

}  // namespace harena::bpf
