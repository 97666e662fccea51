// SPDX-License-Identifier: Apache-2.0
// Needs a CO-RE relocation.
#include "harena/bpf/testdata/test_macros.bpf.h"

struct task {
    int first;
    int pid;
} __attribute__((preserve_access_index));

SEC("syscall")
int read_field(struct task* task) {
    const int pid = task->pid;
    return pid + 1;
}
