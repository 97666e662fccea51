// SPDX-License-Identifier: Apache-2.0
// Calls a function that is neither defined nor declared with __ksym.
#include "harena/bpf/testdata/test_macros.bpf.h"

extern int nowhere(int n);

SEC("syscall")
int call_nowhere(void* ctx) { return nowhere(1); }
