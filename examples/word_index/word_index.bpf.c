// SPDX-License-Identifier: Apache-2.0
// Counts the words of a text: text, table and nodes are in the arena, so that the host can read all of it in place.
#include "examples/word_index/word_index.h"

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <harena/arena.h>

char _license[] SEC("license") = "GPL";

HARENA_ARENA(arena, WORD_INDEX_ARENA_PAGES);

// Set by the host before it runs a program. The text is in the arena.
char __arena* text;
__u64 text_length;
__u64 __arena* absent;

// What the program read there.
__u64 absent_value = 1;

// 0. Linux's verifier knows no value of a global; a loop from a constant on it would follow round by round, and give
// up.
__u64 zero;

// In the arena itself; the host finds it by its name.
struct word_table __arena table;

#define FIRST_BUCKET_BITS 10
#define MAX_BUCKET_BITS 24
#define CHUNK_PAGES 64

// Nodes are cut from the front of chunks of pages.
char __arena* chunk;
__u64 chunk_left;

static void __arena* allocate_pages(__u64 pages) {
    void __arena* first = bpf_arena_alloc_pages(&arena, NULL, pages, NUMA_NO_NODE, 0);
    if (first) table.pages += pages;
    return first;
}

static void __arena* allocate(__u64 bytes) {
    bytes = (bytes + 7) & ~7ULL;
    if (bytes > HARENA_PAGE_SIZE)  // a very long word has pages of its own
        return allocate_pages((bytes + HARENA_PAGE_SIZE - 1) / HARENA_PAGE_SIZE);
    if (bytes > chunk_left) {
        chunk_left = 0;
        chunk = allocate_pages(CHUNK_PAGES);
        if (!chunk) return NULL;
        chunk_left = CHUNK_PAGES * HARENA_PAGE_SIZE;
    }
    char __arena* cut = chunk;
    chunk += bytes;
    chunk_left -= bytes;
    return cut;
}

// About one bucket for 32 bytes of text.
static int make_buckets(void) {
    __u32 bits = FIRST_BUCKET_BITS;
    while (bits < MAX_BUCKET_BITS && (text_length >> 5 >> bits) != 0) bits++;
    table.bucket_count = 1ULL << bits;
    table.buckets = allocate_pages((sizeof(void*) << bits) / HARENA_PAGE_SIZE);
    return table.buckets ? word_index_ok : word_index_arena_full;
}

// The lower-case letter or digit that `c` stands for in a word, or 0 if it separates words.
static __u32 word_character(__u8 c) {
    if ((__u8)(c - 'A') < 26) return c + ('a' - 'A');
    if ((__u8)(c - 'a') < 26 || (__u8)(c - '0') < 10) return c;
    return 0;
}

// Counts the word at text[begin, begin + length).
static int count_word(__u64 begin, __u64 length, __u32 hash) {
    struct word __arena* __arena* bucket = &table.buckets[hash & (table.bucket_count - 1)];
    struct word __arena* w;
    __u64 i;

    for (w = *bucket; w; w = w->next) {
        if (!can_loop) return word_index_out_of_time;
        if (w->hash != hash || w->length != length) continue;
        for (i = zero; i < length && (__u8)w->text[i] == word_character(text[begin + i]); i++)
            if (!can_loop) return word_index_out_of_time;
        if (i == length) {
            w->count++;
            return word_index_ok;
        }
    }

    w = allocate(sizeof(*w) + length);
    if (!w) return word_index_arena_full;
    w->text = (char __arena*)(w + 1);
    for (i = zero; i < length; i++) {
        if (!can_loop) return word_index_out_of_time;
        w->text[i] = word_character(text[begin + i]);
    }
    w->count = 1;
    w->hash = hash;
    w->length = length;
    w->next = *bucket;
    *bucket = w;
    table.words++;
    return word_index_ok;
}

static int count_text(void) {
    int status = make_buckets();
    __u64 at = zero;

    while (status == word_index_ok && at < text_length) {
        __u64 begin = at;
        __u32 hash = 2166136261;  // FNV-1a
        __u32 c;

        while (at < text_length && (c = word_character(text[at])) != 0) {
            if (!can_loop) return word_index_out_of_time;
            hash = (hash ^ c) * 16777619;
            at++;
        }
        if (at > begin)
            status = count_word(begin, at - begin, hash);
        else
            at++;
        if (!can_loop) return word_index_out_of_time;
    }
    return status;
}

// Reads and writes a page that is not there. The program goes on: the read gives 0, the write is lost, both are
// reported.
static void touch_absent_page(void) {
    absent_value = *(volatile __u64 __arena*)absent;
    *(volatile __u64 __arena*)absent = absent_value + 1;
}

SEC("syscall")
int count_words(void* ctx) {
    int status = count_text();
    touch_absent_page();
    return status;
}
