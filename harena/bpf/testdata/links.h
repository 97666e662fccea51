/* SPDX-License-Identifier: Apache-2.0 */
/* What links.bpf.c and links_test.cpp share: a list with links of 32 bits. */
#pragma once

#ifdef __cplusplus
#include "harena/arena/arena_ptr.hpp"
#endif

#include <harena/arena.h>

struct link_node {
    HARENA_LINK(struct link_node) next;
    __u32 value;
};
