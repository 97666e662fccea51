// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "harena/base/result.hpp"

namespace harena {

/// Keeps a mapping of this process out of its forked children: instead of it, a child has an inaccessible reservation
/// of the same range, so that a stray pointer traps there and does not meet what the child's mmap would put in its
/// place. Lasts as long as this object, which is destroyed before the range is unmapped; children may inherit what
/// stays mapped.
class NotInherited {
public:
    /// For whole pages, all mapped. A fork before this call returns may inherit them: what no child may have is mapped
    /// over a reservation that is registered already. Thread-safe. Errors: ENOMEM, EINVAL (cannot be kept from
    /// children).
    [[nodiscard]] static Result<NotInherited> of(void* address, std::size_t bytes);
    /// The same for a range in whose holes earlier handlers of fork (a sanitizer's, an allocator's) may map something
    /// of their own in the child before ours runs: that stays, and only what is free is reserved. So what is mapped
    /// over the reservation later must be kept from children by its owner (MADV_DONTFORK), with forks held off until it
    /// is.
    [[nodiscard]] static Result<NotInherited> leaving_others(void* address, std::size_t bytes);
    /// The same for a shared mapping that is small: children inherit it, and lose it before fork returns. There is no
    /// hole that anything could be mapped in.
    [[nodiscard]] static Result<NotInherited> after_fork(void* address, std::size_t bytes);
    /// Registers what this class does at fork, if that has not happened. Who holds a lock of its own while it calls
    /// `of`, and takes that lock at fork, too, calls this before it registers that: handlers that prepare a fork run in
    /// the reverse order, so that it has its lock before this class takes its own. Thread-safe. Errors: ENOMEM.
    static Result<void> prepare();

    /// To be called when something else has been mapped into the range. Children have the reservation in its place
    /// without that, too, but the mapping would be copied first. Errors: as those of `of`.
    Result<void> replaced() const;

    NotInherited(NotInherited&& other) noexcept;
    NotInherited& operator=(NotInherited&&) = delete;
    NotInherited(const NotInherited&) = delete;
    NotInherited& operator=(const NotInherited&) = delete;
    ~NotInherited();

private:
    NotInherited(void* handle, void* address, std::size_t bytes) noexcept
        : handle_{handle}, address_{address}, bytes_{bytes} {}
    [[nodiscard]] static Result<NotInherited> add(void* address, std::size_t bytes, bool leave_others);

    void* handle_;  // of the registry; null: moved from
    void* address_;
    std::size_t bytes_;
};

}  // namespace harena
