// SPDX-License-Identifier: Apache-2.0
// Strong externs that no kernel has, of which only the address is taken.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "GPL";

extern const int no_such_variable __ksym;
extern void no_such_function(void) __ksym;

SEC("?syscall")
int takes_variable(void* ctx) {
    volatile unsigned long address = (unsigned long)&no_such_variable;
    return address != 0;
}

SEC("?syscall")
int takes_function(void* ctx) {
    volatile unsigned long address = (unsigned long)no_such_function;
    return address != 0;
}
