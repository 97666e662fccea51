// SPDX-License-Identifier: Apache-2.0
// A variable that begins as the address of a function.
#include "harena/bpf/testdata/test_macros.bpf.h"

static __noinline_function int one(int n) { return n + 1; }

int (*operation)(int n) = one;

SEC("syscall")
int use_pointer(void* ctx) { return operation != 0; }
