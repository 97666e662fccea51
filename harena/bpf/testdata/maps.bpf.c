// SPDX-License-Identifier: Apache-2.0
// Map definitions: every member, both ways to say a number, a static map, a program array with initial entries.
#include "harena/bpf/testdata/test_macros.bpf.h"

struct value {
    long count;
    char name[16];
};

int target_zero(struct xdp_md* ctx);
int target_two(struct xdp_md* ctx);

struct {
    __uint(type, TEST_MAP_TYPE_ARENA);
    __uint(map_flags, TEST_F_MMAPABLE);
    __uint(max_entries, 1000);
    __ulong(map_extra, 1ull << 44);
} arena SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, int);
    __type(value, struct value);
    __uint(max_entries, 64);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} by_type SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(key_size, 4);
    __uint(value_size, sizeof(struct value));
    __uint(max_entries, 32);
    __uint(map_extra, 7);
} by_size SEC(".maps");

static struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, int);
    __type(value, long);
    __uint(max_entries, 8);
} hidden SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 4);
    __uint(key_size, sizeof(int));
    __array(values, int(struct xdp_md*));
} jumps SEC(".maps") = {
    .values = {[0] = target_zero, [2] = target_two},
};

SEC("xdp")
int target_zero(struct xdp_md* ctx) { return 0; }

SEC("xdp")
int target_two(struct xdp_md* ctx) {
    int key = 0;
    void* found = bpf_map_lookup_elem(&by_type, &key);
    if (!found) found = bpf_map_lookup_elem(&hidden, &key);
    if (!found) found = bpf_map_lookup_elem(&by_size, &key);
    if (!found) bpf_tail_call(ctx, &jumps, 2);
    return found != 0;
}
