// SPDX-License-Identifier: Apache-2.0
// Loops that end by the budget only.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

// The budget takes the exit, and the program goes on after it.
SEC("syscall")
int politely(void* ctx) {
    while (can_loop);
    return 7;
}

// Nothing but the engine ends this one.
SEC("syscall")
int for_ever(void* ctx) {
    for (;;) __asm__ volatile("");
}
