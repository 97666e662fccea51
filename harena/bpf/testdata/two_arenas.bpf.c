// SPDX-License-Identifier: Apache-2.0
// Well-formed, and one arena too many.
#include <harena/arena.h>

#include "harena/bpf/testdata/test_macros.bpf.h"

HARENA_ARENA(first, 1);
HARENA_ARENA(second, 1);

SEC("syscall")
int main_program(void* ctx) { return &first == (void*)&second; }

char _license[] SEC("license") = "GPL";
