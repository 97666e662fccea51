// SPDX-License-Identifier: Apache-2.0
// A context too small, and a program of a type that needs a packet.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

SEC("xdp")
int passes(struct xdp_md* ctx) { return XDP_PASS; }

SEC("syscall")
int reads_context(__u64* ctx) { return ctx[3]; }
