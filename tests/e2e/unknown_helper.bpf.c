// SPDX-License-Identifier: Apache-2.0
// Calls a helper that does not exist.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

static long (*const no_such_helper)(void) = (void*)9999;

SEC("syscall")
int call_it(void* ctx) { return no_such_helper(); }
