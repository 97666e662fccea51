/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a BPF C program needs to use an arena, and what C or C++ code of the host needs to share its structures.
 *
 *     #include <harena/arena.h>        // before or after <bpf/bpf_helpers.h>, with or without vmlinux.h
 *     #include <bpf/bpf_helpers.h>
 *
 *     HARENA_ARENA(arena, 1024);       // 4 MiB, at an address that the library chooses
 *
 *     struct node { struct node __arena *next; __u64 value; };
 *     struct node __arena *head;       // a global that the host sees by its name
 *
 *     SEC("syscall") int fill(void *ctx) {
 *         struct node __arena *n = bpf_arena_alloc_pages(&arena, NULL, 1, NUMA_NO_NODE, 0);
 *         if (!n) return 1;
 *         n->next = head;
 *         head = n;
 *         return 0;
 *     }
 *
 * Needs Clang 19 or later. A structure that both sides use has the same layout on both as long as its members have
 * fixed sizes (__u32, __u64, pointers): pointers are 8 bytes on the BPF target and on every host that harena runs on.
 */

#ifndef __VMLINUX_H__ /* vmlinux.h has these types, and the headers of the system would define them once more */
#include <linux/types.h>
#ifdef __bpf__
#include <linux/bpf.h>
#endif
#endif

/* Bytes of a page: the unit that is allocated, freed, and absent or present. */
#define HARENA_PAGE_SIZE 4096

/* Numbers of the map definition. They are macros with names of their own, because linux/bpf.h and vmlinux.h have them
 * as enum constants (BPF_MAP_TYPE_ARENA, BPF_F_MMAPABLE, …) or, when they are older than Linux 6.9, not at all. */
#define HARENA_MAP_TYPE_ARENA 33
#define HARENA_F_MMAPABLE (1U << 10)      /* every arena has it: the host maps the arena */
#define HARENA_F_SEGV_ON_FAULT (1U << 17) /* the host's touch of an absent page is SIGSEGV instead of a new page */
#define HARENA_F_NO_USER_CONV (1U << 18)  /* stored pointers keep 32 bits: the host cannot use them as they are */

/* HARENA_LINK(type): a member of a shared structure that links to a `type` in the arena by 32 bits, half of what a
 * pointer takes: the low half of the address, 0 for none.
 *
 *     struct node { HARENA_LINK(struct node) next; __u32 value; };
 *
 * A program follows it by harena_follow and makes it by harena_link_to. For a host in C++ it is an
 * ArenaPtr<node>, which is checked when it is followed: "harena/arena/arena_ptr.hpp" is included before. */
#if !defined(__bpf__) && defined(__cplusplus)
#define HARENA_LINK(type) ::harena::ArenaPtr<type>
#else
#define HARENA_LINK(type) __u32
#endif

#ifndef __bpf__

/* The host's pointers are plain ones. */
#ifndef __arena
#define __arena
#endif

#else /* __bpf__ */

#ifndef __BPF_FEATURE_ADDR_SPACE_CAST
#error "This compiler does not know the address space of arenas: use Clang 19 or later"
#endif

/* Marks what is in the arena.
 *
 * A pointer `struct node __arena *p` is stored as the host's own 64-bit address. The compiler converts it where it is
 * used (addr_space_cast), also when it is assigned from or to a pointer without `__arena`, by a C cast. A global
 * `struct node __arena *head;` is an ordinary global (in .bss) that points into the arena; a global `int __arena
 * counter;` is itself in the arena: in section .addr_space.1, which is put at the arena's end. */
#ifndef __arena
#define __arena __attribute__((address_space(1)))
#endif

/* For the `node_id` of bpf_arena_alloc_pages: memory of any NUMA node. */
#ifndef NUMA_NO_NODE
#define NUMA_NO_NODE (-1)
#endif

#ifndef NULL
#define NULL ((void*)0)
#endif

/* HARENA_ARENA(name, pages): defines the arena `name` of 1 to 1,048,576 pages (4 GiB). One arena a program. Pages are
 * absent until they are allocated; a large arena costs address space only. The library (in Linux: the mapping process)
 * chooses the address. */
#define HARENA_ARENA(name, pages)       \
    struct {                            \
        HARENA_ARENA_MEMBERS_(0, pages) \
    } name __attribute__((section(".maps"), used))

/* HARENA_ARENA_AT(name, pages, address, flags): the same at a fixed address, a multiple of 4096 and not 0, such as
 * 1ULL << 44. `flags`: 0, HARENA_F_SEGV_ON_FAULT, HARENA_F_NO_USER_CONV or both. The arena must not cross a multiple of
 * 4 GiB. */
#define HARENA_ARENA_AT(name, pages, address, flags)                                 \
    struct {                                                                         \
        HARENA_ARENA_MEMBERS_(flags, pages)                                          \
        enum { HARENA_JOIN_(harena_map_extra_, __COUNTER__) = (address) } map_extra; \
    } name __attribute__((section(".maps"), used))

/* Members of a map definition are numbers written as types: an array's length, or an enum's value. */
#define HARENA_ARENA_MEMBERS_(flags, pages)       \
    int(*type)[HARENA_MAP_TYPE_ARENA];            \
    int(*map_flags)[HARENA_F_MMAPABLE | (flags)]; \
    int(*max_entries)[pages];

/* harena_use_arena(arena): tells Linux which arena a program belongs to that only uses pointers. A program that calls
 * one of the functions below with `&arena` says so already, and harena itself does not need to be told. No instruction
 * but the load of the map's address. */
#define harena_use_arena(arena) __asm__ volatile("" : : "r"(&(arena)))

#define HARENA_JOIN_(a, b) HARENA_JOIN_EXPANDED_(a, b)
#define HARENA_JOIN_EXPANDED_(a, b) a##b

/* Allocates `page_cnt` adjoining zeroed pages and returns the first one, or NULL: none are free, `page_cnt` is 0,
 * `flags` is not 0, or a page of the wanted range is in use or reserved. `addr` NULL is anywhere. `map` is `&arena`.
 * Callable anywhere in harena; in Linux 6.18 only from sleepable programs, such as SEC("syscall"). */
extern void __arena* bpf_arena_alloc_pages(void* map, void __arena* addr, __u32 page_cnt, int node_id, __u64 flags)
    __attribute__((section(".ksyms"), weak));

/* Frees pages, allocated, touched by the host, or reserved. Pages that are absent are skipped. Until they are allocated
 * again, reading them gives 0 or the old value, and what is written to them is lost. */
extern void bpf_arena_free_pages(void* map, void __arena* ptr, __u32 page_cnt) __attribute__((section(".ksyms"), weak));

/* Keeps pages from being allocated until they are freed. Returns 0, -EINVAL (past the arena's end) or -EBUSY (a page is
 * in use or reserved). Linux 6.17. */
extern int bpf_arena_reserve_pages(void* map, void __arena* ptr, __u32 page_cnt)
    __attribute__((section(".ksyms"), weak));

/* `while (can_loop && n)`, `for (i = 0; i < n && can_loop; i++)`: true until the run has used up its time; then false
 * once and for all. Every loop whose number of rounds is not a small constant needs it (or cond_break): Linux's
 * verifier accepts such a loop, and both engines can end it without ending the program. The program goes on after the
 * loop, so one that must not give half a result looks at why its loop ended.
 *
 * It is the instruction may_goto (0xe5): off is the distance to the label in instructions, counted from the next one.
 * Written in bytes, because Clang 19 knows the name at -mcpu=v2 and later only. `.` is two bytes into the instruction.
 * The 16-bit off and the low half of imm, 0, are one .long, because Clang's BPF assembler takes a .short with labels in
 * it for the distance of a jump. */
#ifndef can_loop
#define can_loop                                                      \
    ({                                                                \
        __label__ harena_out_of_time;                                 \
        int harena_go_on = 1;                                         \
        __asm__ volatile goto(                                        \
            ".byte 0xe5, 0x00\n"                                      \
            ".long ((%l[harena_out_of_time] - . - 6) / 8) & 0xffff\n" \
            ".short 0"                                                \
            :                                                         \
            :                                                         \
            :                                                         \
            : harena_out_of_time);                                    \
        if (0) {                                                      \
        harena_out_of_time:                                           \
            harena_go_on = 0;                                         \
        }                                                             \
        harena_go_on;                                                 \
    })
#endif

/* `cond_break;` in the body of a loop: breaks out of the loop when the run has used up its time. */
#ifndef cond_break
#define cond_break  \
    if (can_loop) { \
    } else          \
        break
#endif

/* Explicit casts, for pointers whose type does not say `__arena`: in a structure that has plain pointers, say. With
 * `__arena` types the compiler inserts the same instructions where they are needed.
 *
 * harena_cast_to_program(p): the stored form, a full 64-bit address, to the form that a program dereferences.
 * harena_cast_to_user(p): back, for storing it where the host finds it; NULL stays NULL.
 * Both are expressions with the type of `p`, and `p` is a pointer or a 64-bit integer. */
#define harena_cast_to_program(p) HARENA_CAST_("0x0, 0x1", p)
#define harena_cast_to_user(p) HARENA_CAST_("0x1, 0x0", p)

/* harena_follow(type, link): the `type __arena *` that a HARENA_LINK(type) leads to, NULL for none. Like any pointer it
 * may be stored where the host finds it, and an access where there is nothing is a fault that the program survives.
 * harena_link_to(p): the link to what the `__arena` pointer `p`, of the arena or NULL, points to. */
#define harena_follow(type, link) ((type __arena*)harena_cast_to_user((__u64)(__u32)(link)))
#define harena_link_to(p) ((__u32)(__u64)(p))

/* The assembler writes the space to cast to before the one to cast from. */
#define HARENA_CAST_(spaces, p)                                                             \
    ({                                                                                      \
        __typeof__(p) harena_cast_value = (p);                                              \
        __asm__ volatile("%0 = addr_space_cast(%0, " spaces ")" : "+r"(harena_cast_value)); \
        harena_cast_value;                                                                  \
    })

#endif /* __bpf__ */
