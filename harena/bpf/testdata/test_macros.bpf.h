/* SPDX-License-Identifier: Apache-2.0 */
/* What the test inputs share, beyond <bpf/bpf_helpers.h> of Debian 12, which knows neither arenas nor __ulong. */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define __arena __attribute__((address_space(1)))
#define __noinline_function __attribute__((noinline))
#define TEST_CONCAT_INNER(a, b) a##b
#define TEST_CONCAT(a, b) TEST_CONCAT_INNER(a, b)
#define __ulong(name, val) enum { TEST_CONCAT(unique_value, __COUNTER__) = val } name

enum { TEST_MAP_TYPE_ARENA = 33, TEST_F_MMAPABLE = 1024 };
