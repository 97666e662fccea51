// SPDX-License-Identifier: Apache-2.0
// Needs a value of the kernel's configuration.
#include "harena/bpf/testdata/test_macros.bpf.h"

extern unsigned CONFIG_HZ __kconfig;

SEC("syscall")
int read_config(void* ctx) { return (int)CONFIG_HZ; }
