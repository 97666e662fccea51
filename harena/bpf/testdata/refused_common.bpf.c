// SPDX-License-Identifier: Apache-2.0
// Compiled with -fcommon: the variable has no section.
#include "harena/bpf/testdata/test_macros.bpf.h"

int tentative;

SEC("syscall")
int touch_tentative(void* ctx) { return tentative; }
