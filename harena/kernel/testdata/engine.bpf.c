// SPDX-License-Identifier: Apache-2.0
// Globals of every section, maps, subprograms, faults: what the kernel engine has to resolve.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA(arena, 64);

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, 8);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, 4);
} slots SEC(".maps");

const volatile __u32 factor = 3;
__u32 in_data = 5;
__u64 in_bss;
__u64 __arena in_arena = 7;
__u64 __arena* points = &in_arena;

extern void no_such_kfunc(void) __ksym __weak;

static __attribute__((noinline)) __u64 static_product(__u64 a, __u64 b) { return a * b; }
__attribute__((noinline)) __u64 global_sum(__u64 a, __u64 b) { return a + b; }

SEC("syscall")
int compute(void* ctx) {
    __u32 key = 2;
    __u64* slot = bpf_map_lookup_elem(&slots, &key);
    __u64 count = 1;

    in_bss = global_sum(static_product(in_data, factor), in_arena);
    *points += 1;
    if (slot) *slot = in_bss;
    bpf_map_update_elem(&counts, &key, &count, BPF_ANY);
    if (no_such_kfunc) no_such_kfunc();
    return in_bss;
}

// Reads what the host gave it, through its context.
SEC("syscall")
int follow(__u64* ctx) {
    __u64 __arena* p = (__u64 __arena*)ctx[0];
    ctx[1] = *p;
    *p = ctx[2];
    return 0;
}
