// SPDX-License-Identifier: Apache-2.0
// Arena pointers as arguments and results of static and of global functions, and static callbacks.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA(arena, 16);

__u64 __arena total = 4;

static __attribute__((noinline)) __u64 __arena* next(__u64 __arena* p) { return p + 1; }
__attribute__((noinline)) __u64 twice(__u64 __arena* p) { return *p * 2; }
// Linux's way to say that the argument is a pointer into the arena.
__attribute__((noinline)) __u64 thrice(__u64 __arena* p __attribute__((btf_decl_tag("arg:arena")))) { return *p * 3; }

static long add_index(__u32 index, void* ctx) {
    total += index;
    return 0;
}
static long stop_at_once(__u32 index, void* ctx) {
    total += 100;
    return 1;
}

SEC("syscall")
int of_static_function(__u64* ctx) {
    ctx[0] = next(&total) == &total + 1;
    return total;
}

SEC("syscall")
int of_global_function(void* ctx) { return twice(&total); }

SEC("syscall")
int of_tagged_function(void* ctx) { return thrice(&total); }

SEC("syscall")
int static_callbacks(__u64* ctx) {
    ctx[0] = bpf_loop(5, add_index, 0, 0);
    ctx[1] = bpf_loop(7, stop_at_once, 0, 0);
    return total;
}
