// SPDX-License-Identifier: Apache-2.0
// A map of maps.
#include "harena/bpf/testdata/test_macros.bpf.h"

struct inner {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, int);
    __type(value, int);
    __uint(max_entries, 1);
} inner_map SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
    __type(key, int);
    __uint(max_entries, 4);
    __array(values, struct inner);
} outer SEC(".maps") = {
    .values = {[0] = &inner_map},
};

SEC("syscall")
int use_maps(void* ctx) {
    int key = 0;
    return bpf_map_lookup_elem(&outer, &key) != 0;
}
