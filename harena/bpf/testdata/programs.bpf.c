// SPDX-License-Identifier: Apache-2.0
// Programs and subprograms: several in a section, calls within and across sections, sections of each kind.
#include "harena/bpf/testdata/test_macros.bpf.h"

volatile int total;

static __noinline_function int static_in_text(int a) {
    total += a;
    return total * 3;
}

__noinline_function int global_in_text(int a) { return static_in_text(a) + 1; }

__attribute__((visibility("hidden"))) __noinline_function int hidden_in_text(int a) {
    return static_in_text(a + 1) + static_in_text(a + 2);
}

SEC("syscall")
static __noinline_function int static_in_syscall(int a) {
    total -= a;
    return total * 5;
}

SEC("syscall")
int first(void* ctx) {
    const int sum = global_in_text(1) + static_in_text(2);
    return sum + static_in_syscall(3);
}

SEC("syscall")
int second(void* ctx) { return static_in_syscall(4) + hidden_in_text(5); }

SEC("xdp.frags/ingress")
int frags(struct xdp_md* ctx) { return global_in_text(6); }

SEC("?xdp")
int optional(struct xdp_md* ctx) { return static_in_text(7); }

SEC("tc")
int classify(struct __sk_buff* skb) { return static_in_text(8); }

SEC("tcx/egress")
int egress(struct __sk_buff* skb) { return 0; }

SEC("socket")
int filter(struct __sk_buff* skb) { return global_in_text(9); }

SEC("kprobe/do_nothing")
int probe(void* ctx) { return 0; }

char _license[] SEC("license") = "Dual BSD/GPL";
