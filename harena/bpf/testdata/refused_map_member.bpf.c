// SPDX-License-Identifier: Apache-2.0
// A map with a member that does not exist.
#include "harena/bpf/testdata/test_macros.bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entires, 1);
} misspelt SEC(".maps");

SEC("syscall")
int use_map(void* ctx) {
    int key = 0;
    return bpf_map_lookup_elem(&misspelt, &key) != 0;
}
