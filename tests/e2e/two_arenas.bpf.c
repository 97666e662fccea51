// SPDX-License-Identifier: Apache-2.0
// A program can have one arena only.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA(first_arena, 4);
HARENA_ARENA(second_arena, 4);

SEC("syscall")
int use_both(void* ctx) {
    return bpf_arena_alloc_pages(&first_arena, NULL, 1, NUMA_NO_NODE, 0) !=
           bpf_arena_alloc_pages(&second_arena, NULL, 1, NUMA_NO_NODE, 0);
}
