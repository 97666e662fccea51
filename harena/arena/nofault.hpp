// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "harena/base/result.hpp"

/// Memory accesses on behalf of a program, which may fault: then a load gives zero and a store is dropped.
///
/// One machine instruction makes each access (a loop around compare-and-swap the fetching and, or, xor), so that an
/// access that straddles into an absent page is wholly dropped. Their text is registered in the exception table;
/// addresses must lie in a `Window` span: anywhere else they touch what is there. Thread-safe; `register_text` must
/// have succeeded.
namespace harena::nofault {

struct Access {
    std::uint64_t value;    // what was loaded or fetched, zero-extended; 0 after a fault
    std::uint64_t faulted;  // 1 after a fault, else 0
};

enum class Atomic : std::uint8_t {
    add,
    or_,
    and_,
    xor_,
    fetch_add,
    fetch_or,
    fetch_and,
    fetch_xor,
    exchange,
};

/// Registers the text of this file once for the process. Errors: ENOMEM.
Result<void> register_text();

/// Reads `size` bytes (1, 2, 4 or 8) with acquire ordering.
[[nodiscard]] Access load(std::uintptr_t address, unsigned size) noexcept;

/// Writes the low `size` bytes (1, 2, 4 or 8) of `value` with release ordering.
Access store(std::uintptr_t address, unsigned size, std::uint64_t value) noexcept;

/// Sequentially consistent read-modify-write of `size` bytes (4 or 8). `value` of the result is the old content for the
/// fetching kinds and `exchange`.
Access atomic(Atomic operation, std::uintptr_t address, unsigned size, std::uint64_t operand) noexcept;

/// Writes `desired` if the `size` bytes (4 or 8) equal `expected`; the old content is returned either way.
Access compare_exchange(std::uintptr_t address, unsigned size, std::uint64_t expected, std::uint64_t desired) noexcept;

/// Copies between private memory and memory that others may change or that may be absent, in words where both ends
/// allow. False if a part of the shared side was absent: then that part reads as zero or was not written.
bool copy_from(void* to, std::uintptr_t from, std::uint64_t bytes) noexcept;
bool copy_to(std::uintptr_t to, const void* from, std::uint64_t bytes) noexcept;

}  // namespace harena::nofault
