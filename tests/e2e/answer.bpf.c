// SPDX-License-Identifier: Apache-2.0
// One program, no arena.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

SEC("syscall")
int answer(void* ctx) { return 42; }
