// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "harena/base/types.hpp"

namespace harena::bpf {

/// One access of a program to an absent page of its arena.
struct Fault {
    enum class Access : std::uint8_t { read, write };

    Access access = Access::read;  // a read-modify-write is a write
    /// High half of `user_vm_start` plus the pointer's low half plus the instruction's offset, not wrapped.
    UserAddress address;
    /// Where: the function, and the instruction counted from its first one, as `harena dump` counts.
    std::string function;
    std::uint32_t insn = 0;
    /// The same in words, with file, line and source text if known.
    std::string place;
};

/// "ERROR: Arena READ access at unmapped address 0x…" and, on a second line, where (source: Linux 7.3's report).
[[nodiscard]] std::string to_text(const Fault& fault);

/// What a program has done wrong so far and gone on after: a count of all, and the last ones. Thread-safe.
class FaultLog {
public:
    static constexpr std::size_t k_kept = 64;

    void add(std::uint64_t count, const std::vector<Fault>& faults);

    [[nodiscard]] std::uint64_t count() const;
    /// The last `k_kept` at most, oldest first.
    [[nodiscard]] std::vector<Fault> last() const;

private:
    mutable std::mutex mutex_;  // protects the rest; a leaf of the lock order
    std::uint64_t count_ = 0;
    std::vector<Fault> ring_;
    std::size_t oldest_ = 0;
};

}  // namespace harena::bpf
