// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "harena/base/fork.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/secret/secret_fork_gate.hpp"
#include "harena/secret/secret_memory.hpp"

namespace harena {

class SecretPages;

/// As long as one is open, its `SecretPages` have an address. Any thread may use it. Closes when it is destroyed.
class [[nodiscard]] SecretWindow {
public:
    SecretWindow(SecretWindow&& other) noexcept : pages_{std::exchange(other.pages_, nullptr)} {}
    SecretWindow& operator=(SecretWindow&& other) noexcept {
        std::swap(pages_, other.pages_);
        return *this;
    }
    SecretWindow(const SecretWindow&) = delete;
    SecretWindow& operator=(const SecretWindow&) = delete;
    ~SecretWindow() { (void)close(); }

    /// Null, and 0, if it is closed.
    [[nodiscard]] std::byte* data() const noexcept;
    [[nodiscard]] std::size_t size() const noexcept;
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data(), size()}; }

    /// Closes it now; again does nothing. Errors: ENOMEM (the kernel refuses to unmap, and to protect: the memory is
    /// still mapped, and unmapped at the next opportunity), EOWNERDEAD.
    Result<void> close();

private:
    friend class SecretPages;
    explicit SecretWindow(SecretPages& pages) noexcept : pages_{&pages} {}
    SecretPages* pages_;
};

/// Whole pages of secret memory that have an address only while a `SecretWindow` is open, always the same, between two
/// guards. While none is, any access there traps, and, with memfd_secret, no page-table entry leads to them, and they
/// do not count against RLIMIT_MEMLOCK.
///
/// Thread-safe. A child after fork cannot use them (EOWNERDEAD), nor has it their file.
class SecretPages {
public:
    struct Options {
        /// As in `SecretHeapOptions`. Locked memory is made inaccessible between windows, not unmapped.
        bool allow_mlock = false;
    };

    /// Zero pages. Errors: EINVAL (no pages, more than 2^28), ENOSYS, EPERM, EACCES (no memfd_secret), EAGAIN
    /// (RLIMIT_MEMLOCK), ENOMEM, EMFILE, ENFILE.
    [[nodiscard]] static Result<std::unique_ptr<SecretPages>> create(PageCount pages, const Options& options);
    [[nodiscard]] static Result<std::unique_ptr<SecretPages>> create(PageCount pages) { return create(pages, {}); }
    SecretPages(const SecretPages&) = delete;
    SecretPages& operator=(const SecretPages&) = delete;
    /// Wipes the pages. No window may be open.
    ~SecretPages();

    /// Errors: EAGAIN (RLIMIT_MEMLOCK), ENOMEM (mappings), EBADF (other code closed the descriptor), EOWNERDEAD.
    [[nodiscard]] Result<SecretWindow> open();

    [[nodiscard]] PageCount pages() const noexcept { return pages_; }
    [[nodiscard]] SecretBackend backend() const noexcept { return backend_; }
    /// How many windows are open; 0 in a child after fork.
    [[nodiscard]] std::uint64_t windows() const;

private:
    friend class SecretWindow;
    SecretPages(PageCount pages, SecretBackend backend, std::byte* base) noexcept
        : pages_{pages}, backend_{backend}, base_{base} {}

    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_of(pages_); }
    Result<void> make_memory();
    // With `mutex_` held, or before any other thread knows the object.
    Result<void> show();
    Result<void> hide();
    Result<void> close_one();

    PageCount pages_;
    SecretBackend backend_;
    std::byte* base_;
    std::optional<NotInherited> not_inherited_;
    HeldSecretFile file_;  // of memfd_secret
    ForkGuard fork_guard_;

    mutable std::mutex mutex_;  // protects all below; before the fork gate
    std::uint64_t windows_ = 0;
    bool shown_ = false;  // accessible; without a window, only if the kernel refused
};

}  // namespace harena
