// SPDX-License-Identifier: Apache-2.0
// Addresses of functions: static and global ones of .text, and one of the program's own section.
#include "harena/bpf/testdata/test_macros.bpf.h"

long sum;

static int static_callback(__u32 index, void* context) {
    sum += index;
    return 0;
}

int global_callback(__u32 index, void* context) {
    sum += 2 * index;
    return 0;
}

SEC("syscall")
static int callback_in_section(__u32 index, void* context) {
    sum += 3 * index;
    return 0;
}

SEC("syscall")
int loops(void* ctx) {
    bpf_loop(4, static_callback, 0, 0);
    bpf_loop(4, global_callback, 0, 0);
    bpf_loop(4, callback_in_section, 0, 0);
    return (int)sum;
}
