// SPDX-License-Identifier: Apache-2.0
// Touches pages that are absent, and goes on.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA_AT(arena, 16, 1ULL << 44, 0);

#define PAGE ((volatile __u64 __arena*)((1ULL << 44) + 5 * HARENA_PAGE_SIZE))

SEC("syscall")
int one_of_each(void* ctx) {
    harena_use_arena(arena);
    __u64 value = PAGE[1];  // reads
    PAGE[2] = value + 1;    // writes
    return value == 0 ? 11 : 12;
}

SEC("syscall")
int many(void* ctx) {
    harena_use_arena(arena);
    for (__u32 i = 0; i < 100 && can_loop; i++) PAGE[i] = i;
    return 13;
}
