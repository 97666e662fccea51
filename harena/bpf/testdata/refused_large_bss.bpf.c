// SPDX-License-Identifier: Apache-2.0
// More zeros than an object may ask for.
#include "harena/bpf/testdata/test_macros.bpf.h"

char enormous[65 << 20];

SEC("syscall")
int touch_enormous(void* ctx) { return enormous[1 << 20]; }
