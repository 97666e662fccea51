// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/kernel_map.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>

#include "harena/base/os/bpf.hpp"
#include "harena/kernel/kernel_program.hpp"
#include "harena/kernel/refusal.hpp"

namespace harena::kernel {

namespace {

/// Those whose elements are as large for the host as the definition says: a per-CPU map has a value for each processor.
constexpr std::array k_types{bpf::map_type::hash, bpf::map_type::array, bpf::map_type::prog_array};

}  // namespace

Result<std::shared_ptr<KernelMap>> KernelMap::create(const bpf::MapDefinition& d, int btf) try {
    if (std::ranges::find(k_types, d.type) == k_types.end())
        return fail(ENOTSUP,
                    "map '{}' is a map of {}, which this engine does not have (it has ARENA, ARRAY, HASH and "
                    "PROG_ARRAY)",
                    d.name, bpf::map_type_name(d.type));
    if (d.pin_by_name)
        return fail(ENOTSUP, "map '{}' is to be pinned by name, which this engine does not do: it would be another map",
                    d.name);
    os::BpfMapSpec spec{.type = d.type,
                        .key_size = d.key_size,
                        .value_size = d.value_size,
                        .max_entries = d.max_entries,
                        .flags = d.flags,
                        .map_extra = d.map_extra,
                        .name = d.name,
                        .btf = -1,
                        .key_type = d.key_type,
                        .value_type = d.value_type};
    // Maps of programs have no types; neither have keys that are a number of bytes.
    const bool has_types = d.key_type != bpf::k_no_type && d.value_type != bpf::k_no_type;
    if (has_types && d.type != bpf::map_type::prog_array) spec.btf = btf;
    auto fd = os::bpf_map_create(spec);
    if (!fd && spec.btf >= 0) {  // types are for tools that look at the map: it works without
        spec.btf = -1;
        fd = os::bpf_map_create(spec);
    }
    if (!fd)
        return pass_on(
            refusal(fd.error(), fmt::format("map '{}'", d.name),
                    fmt::format("type {}, key_size {}, value_size {}, max_entries {}, map_flags {:#x}",
                                bpf::map_type_name(d.type), d.key_size, d.value_size, d.max_entries, d.flags)));
    return std::make_shared<KernelMap>(d, std::move(*fd));
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map '{}': no memory", d.name);
}

Error KernelMap::error(os::SysError error, std::string_view call) const {
    if (definition().type == bpf::map_type::arena)
        return {error.code, fmt::format("map '{}' is an arena: it has no elements; use its memory", name())};
    return {error.code, fmt::format("map '{}': {}: {}", name(), call, os::describe(error))};
}

Result<void> KernelMap::check_use() const { return fork_guard_.check("the map"); }

Result<std::vector<std::byte>> KernelMap::lookup(std::span<const std::byte> key) try {
    HARENA_CHECK_OK(check_use());
    // The kernel's answer for an arena is the same, to a key of any size.
    if (definition().type == bpf::map_type::arena) return pass_on(error({EINVAL}, "lookup"));
    HARENA_CHECK_OK(check_key(key));
    std::vector<std::byte> value(definition().value_size);
    if (const auto found = os::bpf_map_lookup(fd_.get(), key.data(), value.data()); !found)
        return pass_on(error(found.error(), "lookup"));
    return value;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map '{}': no memory for a copy of {} bytes", name(), definition().value_size);
}

Result<void> KernelMap::update(std::span<const std::byte> key, std::span<const std::byte> value, bpf::UpdateMode mode) {
    HARENA_CHECK_OK(check_use());
    if (definition().type == bpf::map_type::arena) return pass_on(error({EOPNOTSUPP}, "update"));
    HARENA_CHECK_OK(check_key(key));
    HARENA_CHECK_OK(check_value(value));
    const auto flags = static_cast<std::uint64_t>(mode);
    if (const auto updated = os::bpf_map_update(fd_.get(), key.data(), value.data(), flags); !updated)
        return pass_on(error(updated.error(), "update"));
    return {};
}

Result<void> KernelMap::erase(std::span<const std::byte> key) {
    HARENA_CHECK_OK(check_use());
    if (definition().type == bpf::map_type::arena) return pass_on(error({EOPNOTSUPP}, "delete"));
    HARENA_CHECK_OK(check_key(key));
    if (const auto erased = os::bpf_map_delete(fd_.get(), key.data()); !erased)
        return pass_on(error(erased.error(), "delete"));
    return {};
}

Result<std::vector<std::byte>> KernelMap::next_key(std::optional<std::span<const std::byte>> key) try {
    HARENA_CHECK_OK(check_use());
    if (definition().type == bpf::map_type::arena) return pass_on(error({EOPNOTSUPP}, "next key"));
    if (key) HARENA_CHECK_OK(check_key(*key));
    std::vector<std::byte> next(definition().key_size);
    if (const auto found = os::bpf_map_next_key(fd_.get(), key ? key->data() : nullptr, next.data()); !found)
        return pass_on(error(found.error(), "next key"));
    return next;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map '{}': no memory for a copy of {} bytes", name(), definition().key_size);
}

Result<void> KernelMap::set_program(std::uint32_t index, bpf::Program& program) {
    auto* const loaded = dynamic_cast<KernelProgram*>(&program);
    if (loaded == nullptr)
        return fail(EINVAL, "map '{}': program '{}' is not one of the kernel engine", name(), program.name());
    return set_program_fd(index, loaded->fd());
}

Result<void> KernelMap::set_program_fd(std::uint32_t index, int program) {
    HARENA_CHECK_OK(check_use());
    if (definition().type != bpf::map_type::prog_array)
        return fail(EOPNOTSUPP, "map '{}' is of type {}: programs go into PROG_ARRAY maps only (index {})", name(),
                    bpf::map_type_name(definition().type), index);
    if (const auto set = os::bpf_map_update(fd_.get(), &index, &program, 0); !set)
        return pass_on(error(set.error(), "set program"));
    return {};
}

}  // namespace harena::kernel
