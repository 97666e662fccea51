// SPDX-License-Identifier: Apache-2.0
// Variables: each kind of section, static and global, arrays reached with offsets, pointers with initial values.
#include "harena/bpf/testdata/test_macros.bpf.h"

struct node {
    struct node __arena* next;
    long value;
};

struct node __arena arena_zero;
extern struct node __arena arena_second;
struct node __arena arena_first = {.next = &arena_second, .value = 1};
struct node __arena arena_second = {.next = &arena_first, .value = 2};
struct node __arena* arena_head = &arena_second;

int data_int = 5;
static volatile int data_static = 7;
static volatile long data_array[4] = {1, 2, 3, 4};
int bss_int;
static volatile long bss_static;
const volatile int rodata_int = 3;
static const volatile int rodata_static = 9;
int own_section SEC(".data.own") = 11;

int* data_pointer = &data_int;
volatile long* element_pointer = &data_array[2];
const char* text = "hello";

SEC("syscall")
int touch_all(void* ctx) {
    arena_zero.value += arena_head->value;
    bss_static += data_array[3] + data_static + rodata_static + rodata_int;
    bss_int += *data_pointer + (int)*element_pointer + own_section;
    return bss_int + text[1] + (int)arena_first.value;
}
