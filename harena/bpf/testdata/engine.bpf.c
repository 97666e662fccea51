// SPDX-License-Identifier: Apache-2.0
// Programs that run: globals of every section, an arena with globals, maps, void functions, a loop with can_loop.
#include <harena/arena.h>

#include "harena/bpf/testdata/test_macros.bpf.h"

struct node {
    struct node __arena* next;
    long value;
};

HARENA_ARENA(arena, 100);

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, int);
    __type(value, long);
    __uint(max_entries, 16);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 2);
    __uint(key_size, sizeof(int));
    __uint(value_size, sizeof(int));
} jumps SEC(".maps");

const volatile int limit = 10;
int start = 5;
long total;
struct node __arena* list;

int __arena arena_counter = 3;
char __arena arena_bytes[5000];

SEC("syscall")
int add_up(void* ctx) {
    for (int i = start; i < limit && can_loop; i++) total += i;
    return (int)total;
}

// Builds a list of `limit` nodes, one a page, for the host to walk.
SEC("syscall")
int build_list(void* ctx) {
    for (int i = 0; i < limit && can_loop; i++) {
        struct node __arena* made = bpf_arena_alloc_pages(&arena, 0, 1, NUMA_NO_NODE, 0);
        if (!made) return -1;
        made->value = i;
        made->next = list;
        list = made;
    }
    arena_counter++;
    return 0;
}

SEC("syscall")
int fault(void* ctx) {
    struct node __arena* nowhere = (void __arena*)&arena_bytes[0] - 8 * 4096;
    return (int)nowhere->value;  // absent
}

// Without a result: what is in r0 at their ends is of no meaning, here what the look-up left.
__noinline_function void global_count(int key) {
    long* count = bpf_map_lookup_elem(&counts, &key);
    if (count) *count += 1;
}
static __noinline_function void static_count(int key) {
    long* count = bpf_map_lookup_elem(&counts, &key);
    if (count) *count += 10;
}

SEC("syscall")
int count(int* ctx) {
    static_count(*ctx);
    global_count(*ctx);
    return 0;
}

SEC("syscall")
int jump(void* ctx) {
    bpf_tail_call(ctx, &jumps, 1);
    return 1;
}

SEC("syscall")
int endless(void* ctx) {
    for (;;) __sync_fetch_and_add(&total, 1);
    return 0;
}

SEC("?syscall")
int optional(void* ctx) { return 7; }

char _license[] SEC("license") = "GPL";
