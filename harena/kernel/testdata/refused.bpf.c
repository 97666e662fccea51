// SPDX-License-Identifier: Apache-2.0
// Refused by the kernel's verifier: the value may be NULL.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, 8);
} counts SEC(".maps");

SEC("syscall")
int dereferences(void* ctx) {
    __u32 key = 2;
    __u64* count = bpf_map_lookup_elem(&counts, &key);
    return *count;
}
