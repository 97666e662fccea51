// SPDX-License-Identifier: Apache-2.0
// Works on its context; the stack is indexed by what stands there.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

struct context {
    __u32 value;
    __u32 index;
};

SEC("syscall")
int twice(struct context* ctx) {
    ctx->value *= 2;
    return ctx->value;
}

SEC("syscall")
int read_stack(struct context* ctx) {
    volatile char bytes[16];
    __builtin_memset((void*)bytes, 7, sizeof(bytes));
    return bytes[ctx->index];
}
