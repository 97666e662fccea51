// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "harena/base/result.hpp"
#include "harena/base/signal_safe_registry.hpp"

namespace harena {

/// Text [begin, end) whose memory faults are expected: a fault at an instruction in it continues at `fixup`.
/// The fix-up finds all registers as the faulting instruction left them, which is: unchanged.
struct ExceptionRange {
    std::uintptr_t begin;
    std::uintptr_t end;
    std::uintptr_t fixup;
};

/// Which text of this process may fault, and where it goes on (kernel: the exception tables of copy_from_user and BPF).
class ExceptionTable {
public:
    using Handle = SignalSafeRegistry<ExceptionRange>::Handle;

    /// The one of this process.
    [[nodiscard]] static ExceptionTable& instance() noexcept;

    /// Registers a range, which must not overlap another. Errors: ENOMEM. Thread-safe.
    [[nodiscard]] Result<Handle> add(const ExceptionRange& range) { return ranges_.add(range); }

    /// Takes a range back, when no thread can be in it any more. Thread-safe.
    void remove(Handle handle) noexcept { ranges_.remove(handle); }

    /// Where to go on after a fault at `instruction`, or 0 if that is in no range. Async-signal-safe, lock-free.
    [[nodiscard]] std::uintptr_t find_fixup(std::uintptr_t instruction) const noexcept;

    /// Held across fork: see SignalSafeRegistry.
    void lock() noexcept { ranges_.lock(); }
    void unlock() noexcept { ranges_.unlock(); }

private:
    SignalSafeRegistry<ExceptionRange> ranges_;
};

}  // namespace harena
