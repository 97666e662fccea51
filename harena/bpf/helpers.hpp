// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/bpf/value.hpp"

namespace harena::bpf {
class HelperCall;
}  // namespace harena::bpf

/// What helpers and kfuncs do, one function each; their arguments have passed the prototype. Names as in Linux without
/// `bpf_`.
namespace harena::bpf::helpers {

Value map_lookup_elem(HelperCall& call);
Value map_update_elem(HelperCall& call);
Value map_delete_elem(HelperCall& call);
Value for_each_map_elem(HelperCall& call);
Value loop(HelperCall& call);

Value ktime_get_ns(HelperCall& call);
Value ktime_get_boot_ns(HelperCall& call);
Value trace_printk(HelperCall& call);
Value get_prandom_u32(HelperCall& call);
Value get_smp_processor_id(HelperCall& call);
Value get_current_pid_tgid(HelperCall& call);
Value get_current_comm(HelperCall& call);
Value string_compare(HelperCall& call);

Value arena_alloc_pages(HelperCall& call);
Value arena_free_pages(HelperCall& call);
Value arena_reserve_pages(HelperCall& call);

}  // namespace harena::bpf::helpers
