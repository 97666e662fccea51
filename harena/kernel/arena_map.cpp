// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/arena_map.hpp"

#include <cerrno>
#include <utility>

#include "harena/base/os/bpf.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/system_info.hpp"
#include "harena/kernel/refusal.hpp"

namespace harena::kernel {

namespace {

constexpr std::uint64_t k_max_bytes = 4 * k_gib;

/// The kernel's checks once more, for messages: it says EINVAL, E2BIG and ERANGE and no more.
Result<void> check(const bpf::MapDefinition& d) {
    const std::uint64_t bytes = std::uint64_t{d.max_entries} * k_page_size;
    if (d.max_entries == 0) return fail(EINVAL, "arena '{}': 0 pages", d.name);
    if (d.map_extra % k_page_size != 0)
        return fail(EINVAL, "arena '{}': user_vm_start {:#x} is not a multiple of {}", d.name, d.map_extra,
                    k_page_size);
    if (bytes > k_max_bytes) return fail(E2BIG, "arena '{}': {} pages are more than 4 GiB", d.name, d.max_entries);
    if (d.map_extra != 0 && (d.map_extra >> 32) != ((d.map_extra + bytes - 1) >> 32))
        return fail(ERANGE, "arena '{}': {} pages at {:#x} cross a multiple of 4 GiB", d.name, d.max_entries,
                    d.map_extra);
    return {};
}

}  // namespace

Result<ArenaMapping> ArenaMapping::create(const bpf::MapDefinition& d) {
    HARENA_CHECK_OK(check(d));
    const std::uint64_t bytes = std::uint64_t{d.max_entries} * k_page_size;
    os::BpfMapSpec spec{.type = d.type,
                        .key_size = d.key_size,
                        .value_size = d.value_size,
                        .max_entries = d.max_entries,
                        .flags = d.flags,
                        .map_extra = d.map_extra,
                        .name = d.name};
    auto fd = os::bpf_map_create(spec);
    if (!fd) {
        // Before 5.16, Linux does not know `map_extra`, and says E2BIG.
        const bool too_old = (fd.error().code == EINVAL || fd.error().code == E2BIG) && !os::try_kernel_arena();
        return pass_on(refusal(fd.error(), fmt::format("arena '{}'", d.name),
                               too_old ? fmt::format("arenas came with Linux 6.9, and this is {}", os::kernel_release())
                                       : fmt::format("{} pages, map_flags {:#x}, key_size {}, value_size {}",
                                                     d.max_entries, d.flags, d.key_size, d.value_size)));
    }
    auto memory = MapMemory::create(fd->get(), d.map_extra, bytes);
    if (!memory && memory.error().code() == EEXIST)
        return fail(EEXIST,
                    "arena '{}': {} bytes at {:#x} are taken by {}; choose another address "
                    "(OpenOptions::arena_address, --arena-address)",
                    d.name, bytes, d.map_extra, os::find_mapping(d.map_extra, bytes).value_or("another mapping"));
    if (!memory) return pass_on(memory.error().in(fmt::format("arena '{}'", d.name)));
    return ArenaMapping{std::move(*fd), *std::move(memory)};
}

}  // namespace harena::kernel
