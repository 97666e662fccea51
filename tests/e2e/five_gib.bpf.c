// SPDX-License-Identifier: Apache-2.0
// An arena has 4 GiB at most.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA(huge_arena, 5 << 18);

SEC("syscall")
int use_it(void* ctx) { return bpf_arena_alloc_pages(&huge_arena, NULL, 1, NUMA_NO_NODE, 0) != NULL; }
