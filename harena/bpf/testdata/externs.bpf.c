// SPDX-License-Identifier: Apache-2.0
// What the engine provides: functions and variables, strong and weak.
#include "harena/bpf/testdata/test_macros.bpf.h"

extern void* strong_function(void* map, int n) __ksym;
extern int weak_function(int n) __ksym __weak;
extern const int strong_variable __ksym;
extern const void weak_variable __ksym __weak;

SEC("syscall")
int use_all(void* ctx) {
    int sum = strong_variable;
    if (strong_function(0, 1)) sum++;
    if (weak_function) sum += weak_function(2);
    if (&weak_variable) sum += 4;
    return sum;
}
