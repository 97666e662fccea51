// SPDX-License-Identifier: Apache-2.0
// The verifier removes more than 1,024 instructions before those that fault.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA_AT(arena, 16, 1ULL << 44, 0);

#define PAGE(n) ((volatile __u64 __arena*)((1ULL << 44) + (n) * HARENA_PAGE_SIZE))

const volatile int debug = 0;

SEC("syscall")
int after_removed_code(__u64* ctx) {
    harena_use_arena(arena);
    if (debug) __asm__ volatile(".rept 2100\n r1 = 7\n .endr" ::: "r1");
    ctx[0] = *PAGE(5);  // reads
    if (debug) __asm__ volatile(".rept 1030\n r1 = 7\n .endr" ::: "r1");
    *PAGE(6) = 1;  // writes
    return 3;
}
