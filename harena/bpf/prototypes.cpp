// SPDX-License-Identifier: Apache-2.0
//
// Sources: Linux, include/uapi/linux/bpf.h (numbers, meanings, errors of the helpers); the arena's contract (kfuncs).
#include "harena/bpf/prototypes.hpp"

#include <algorithm>

#include "harena/bpf/helpers.hpp"

namespace harena::bpf {

namespace {

using enum ArgKind;

constexpr std::array<Prototype, 15> k_helpers{
    Prototype{"bpf_map_lookup_elem",
              1,
              {map, map_key},
              ResultKind::map_value_or_null,
              "NULL: no entry",
              true,
              &helpers::map_lookup_elem},
    Prototype{"bpf_map_update_elem",
              2,
              {map, map_key, map_value, scalar},
              ResultKind::scalar,
              "EINVAL (flags), EEXIST, ENOENT, E2BIG (full, index)",
              true,
              &helpers::map_update_elem},
    Prototype{"bpf_map_delete_elem",
              3,
              {map, map_key},
              ResultKind::scalar,
              "ENOENT; EINVAL (array)",
              true,
              &helpers::map_delete_elem},
    Prototype{"bpf_ktime_get_ns", 5, {}, ResultKind::scalar, "", false, &helpers::ktime_get_ns},
    Prototype{"bpf_trace_printk",
              6,
              {input, size, optional_scalar, optional_scalar, optional_scalar},
              ResultKind::scalar,
              "EINVAL (format)",
              true,
              &helpers::trace_printk},
    Prototype{"bpf_get_prandom_u32", 7, {}, ResultKind::scalar, "", false, &helpers::get_prandom_u32},
    Prototype{"bpf_get_smp_processor_id", 8, {}, ResultKind::scalar, "", false, &helpers::get_smp_processor_id},
    Prototype{"bpf_tail_call",
              k_helper_tail_call,
              {context, program_array, scalar},
              ResultKind::nothing,
              "goes on: no program, or 33 tail calls",
              false,
              nullptr},
    Prototype{"bpf_get_current_pid_tgid", 14, {}, ResultKind::scalar, "", false, &helpers::get_current_pid_tgid},
    Prototype{"bpf_get_current_comm",
              16,
              {output, size},
              ResultKind::scalar,
              "EINVAL (size 0)",
              true,
              &helpers::get_current_comm},
    Prototype{"bpf_ktime_get_boot_ns", 125, {}, ResultKind::scalar, "", false, &helpers::ktime_get_boot_ns},
    Prototype{"bpf_ktime_get_coarse_ns", 160, {}, ResultKind::scalar, "", false, &helpers::ktime_get_ns},
    Prototype{"bpf_for_each_map_elem",
              164,
              {map, callback, callback_context, scalar},
              ResultKind::scalar,
              "EINVAL (flags)",
              true,
              &helpers::for_each_map_elem},
    Prototype{"bpf_loop",
              181,
              {scalar32, callback, callback_context, scalar},
              ResultKind::scalar,
              "EINVAL (flags), E2BIG (more than 8388608 rounds)",
              false,
              &helpers::loop},
    Prototype{"bpf_strncmp", 182, {input, size, c_string}, ResultKind::scalar, "", false, &helpers::string_compare},
};

constexpr std::array<Prototype, 3> k_kfuncs{
    Prototype{"bpf_arena_alloc_pages",
              0,
              {arena_map, address, scalar32, scalar32, scalar},
              ResultKind::scalar,
              "NULL",
              true,
              &helpers::arena_alloc_pages},
    Prototype{"bpf_arena_free_pages",
              0,
              {arena_map, address, scalar32},
              ResultKind::nothing,
              "",
              true,
              &helpers::arena_free_pages},
    Prototype{"bpf_arena_reserve_pages",
              0,
              {arena_map, address, scalar32},
              ResultKind::scalar,
              "EINVAL (past the end), EBUSY",
              true,
              &helpers::arena_reserve_pages},
};

}  // namespace

std::span<const Prototype> helper_table() noexcept { return k_helpers; }
std::span<const Prototype> kfunc_table() noexcept { return k_kfuncs; }

const Prototype* find_helper(std::int32_t id) noexcept {
    const auto* const found = std::ranges::find(k_helpers, id, &Prototype::id);
    return found == k_helpers.end() ? nullptr : found;
}

const Prototype* find_kfunc(std::string_view name) noexcept {
    const auto* const found = std::ranges::find(k_kfuncs, name, &Prototype::name);
    return found == k_kfuncs.end() ? nullptr : found;
}

}  // namespace harena::bpf
