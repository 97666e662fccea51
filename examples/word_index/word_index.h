/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <harena/arena.h>

/* What the host (C++) and the program (BPF C) of this example share.
 *
 * A word is a longest run of ASCII letters and digits; letters count as lower case. All other bytes separate words. */

/* Almost 4 GiB of address space; memory is used for the pages that are touched or allocated. */
#define WORD_INDEX_ARENA_PAGES ((1U << 20) - 16)

/* A node of the table, with its characters behind it. */
struct word {
    struct word __arena* next; /* in the same bucket */
    char __arena* text;        /* `length` characters in lower case */
    __u64 count;
    __u32 hash;
    __u32 length;
};

struct word_table {
    struct word __arena* __arena* buckets;
    __u64 bucket_count; /* a power of two */
    __u64 words;        /* nodes */
    __u64 pages;        /* allocated by the program */
};

/* What count_words returns. */
enum WordIndexStatus {
    word_index_ok = 0,
    word_index_arena_full = 1,
    word_index_out_of_time = 2, /* can_loop ended a loop: the counts are not complete */
};
