// SPDX-License-Identifier: Apache-2.0
// More than one program; one of them is not loaded unless asked for. One is of a type that is run with a packet.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

SEC("syscall")
int first(void* ctx) { return 1; }

SEC("syscall")
int second(void* ctx) { return 2; }

SEC("?syscall")
int on_request(void* ctx) { return 3; }
