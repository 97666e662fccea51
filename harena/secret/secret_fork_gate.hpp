// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/base/os/inspect.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// A file of secret memory that stays open. A child after fork closes it before fork returns; so does exec. Other code
/// of the process may close the descriptor by mistake, and open another file under its number: `check` tells.
class HeldSecretFile {
public:
    /// `file` becomes its owner's, to be closed by children, as long as this object is where it is. With the gate held.
    /// Errors: those of fstat.
    Result<void> hold(os::FileDescriptor file);

    HeldSecretFile() noexcept = default;
    HeldSecretFile(const HeldSecretFile&) = delete;
    HeldSecretFile& operator=(const HeldSecretFile&) = delete;
    ~HeldSecretFile();

    /// -1 in a child after fork.
    [[nodiscard]] int get() const noexcept { return file_.get(); }
    /// EBADF if the descriptor is not that file any more.
    [[nodiscard]] Result<void> check() const;

private:
    friend class SecretForkGate;
    /// Closes the file, unless its number is another's by now. Async-signal-safe.
    void close() noexcept;

    os::FileDescriptor file_;
    os::FileFacts facts_;
    HeldSecretFile* previous_ = nullptr;  // in the list of all; both protected by the gate
    HeldSecretFile* next_ = nullptr;
};

/// Held while there is a descriptor of secret memory that is not in the list of those that children close, and while
/// that list changes: no fork happens meanwhile. Never waited for with a lock that a fork's handlers take
/// (docs/locking.md).
class [[nodiscard]] SecretForkGate {
public:
    /// What is done once in a process, before the first: ENOMEM. Thread-safe.
    static Result<void> prepare();

    SecretForkGate() noexcept;
    SecretForkGate(const SecretForkGate&) = delete;
    SecretForkGate& operator=(const SecretForkGate&) = delete;
    ~SecretForkGate();

private:
    friend class HeldSecretFile;
    static void before_fork() noexcept;
    static void after_fork_in_parent() noexcept;
    static void after_fork_in_child() noexcept;
};

}  // namespace harena
