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
enum word_index_status {
    WORD_INDEX_OK = 0,
    WORD_INDEX_ARENA_FULL = 1,
    WORD_INDEX_OUT_OF_TIME = 2, /* can_loop ended a loop: the counts are not complete */
};
