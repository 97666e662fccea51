// SPDX-License-Identifier: Apache-2.0
// A list that host and program build and walk together, by links of 32 bits.
#include "harena/bpf/testdata/links.h"

#include "harena/bpf/testdata/test_macros.bpf.h"

HARENA_ARENA(arena, 100);

HARENA_LINK(struct link_node) head;
struct link_node __arena* first;  // the same as a pointer, for the host

SEC("syscall")
int sum(void* ctx) {
    int total = 0;
    harena_use_arena(arena);
    for (struct link_node __arena* node = harena_follow(struct link_node, head); node && can_loop;
         node = harena_follow(struct link_node, node->next))
        total += node->value;
    return total;
}

// Puts a node in front.
SEC("syscall")
int push(int* ctx) {
    struct link_node __arena* node = bpf_arena_alloc_pages(&arena, NULL, 1, NUMA_NO_NODE, 0);
    if (!node) return -1;
    node->value = *ctx;
    node->next = head;
    head = harena_link_to(node);
    first = harena_follow(struct link_node, head);
    return 0;
}

// What is there if somebody writes any number for a link.
SEC("syscall")
int follow_any(int* ctx) {
    harena_use_arena(arena);
    return harena_follow(struct link_node, *ctx)->value;
}

char _license[] SEC("license") = "GPL";
