// SPDX-License-Identifier: Apache-2.0
// What the examples of secret memory share.
#pragma once

#include <cstddef>
#include <span>

#include "harena/secret/secret_heap.hpp"

namespace harena::example {

/// From now on, all memory that OpenSSL allocates is secret memory of `heap`, which lives as long as the process: what
/// OpenSSL copies of a key, or makes of it, is as far out of reach as the key itself, and zero when it is freed. Before
/// any other call of OpenSSL; false if there was one.
bool give_openssl_secret_memory(SecretHeap& heap);

/// How many copies of `key` (16 bytes or more), or of its bytes in reverse, there are in memory of the process that
/// /proc/self/mem reads: in all but secret memory.
std::size_t copies_outside(std::span<const std::byte> key);

/// Overwrites what earlier calls left of the stack.
void wipe_stack() noexcept;

}  // namespace harena::example
