// SPDX-License-Identifier: Apache-2.0
// Linux's part of harena_arena_bench: each program does its work many times and measures itself.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA(arena, 1);  // the host says how many pages when it opens the object

__u64 wanted;   // in: how many times, or pages
__u64 address;  // in: of the first page
__u64 done;     // out: how many times it was done before something failed or the 250 ms of a loop were over
__u64 ns;       // out: how long that took

// Like `for (i = 0; i < count; ++i)`.
#define repeat(i, count) for ((i) = 0; (i) < (count) && can_loop; ++(i))

SEC("syscall")
int alloc_each(void* ctx) {
    const __u64 count = wanted;
    const __u64 begin = bpf_ktime_get_ns();
    __u64 i;

    repeat(i, count) {
        if (!bpf_arena_alloc_pages(&arena, NULL, 1, NUMA_NO_NODE, 0)) break;
    }
    ns = bpf_ktime_get_ns() - begin;
    done = i;
    return 0;
}

SEC("syscall")
int alloc_free_pairs(void* ctx) {
    const __u64 count = wanted;
    const __u64 begin = bpf_ktime_get_ns();
    __u64 i;

    repeat(i, count) {
        void __arena* page = bpf_arena_alloc_pages(&arena, NULL, 1, NUMA_NO_NODE, 0);

        if (!page) break;
        bpf_arena_free_pages(&arena, page, 1);
    }
    ns = bpf_ktime_get_ns() - begin;
    done = i;
    return 0;
}

SEC("syscall")
int free_range(void* ctx) {
    const __u32 count = wanted;
    void __arena* first = (void __arena*)address;
    const __u64 begin = bpf_ktime_get_ns();

    bpf_arena_free_pages(&arena, first, count);
    ns = bpf_ktime_get_ns() - begin;
    done = count;
    return 0;
}

// Reads a word of each page. They are absent: a word that is not 0 ends it.
SEC("syscall")
int read_each(void* ctx) {
    const volatile __u64 __arena* at = (const volatile __u64 __arena*)address;
    const __u64 count = wanted;
    const __u64 begin = bpf_ktime_get_ns();
    __u64 i;

    harena_use_arena(arena);
    repeat(i, count) {
        if (*at != 0) break;
        at += HARENA_PAGE_SIZE / sizeof(*at);
    }
    ns = bpf_ktime_get_ns() - begin;
    done = i;
    return 0;
}
