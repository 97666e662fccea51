// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/secret/secret_memory.hpp"
#include "harena/vm/range_tree.hpp"

namespace harena {

/// Adjoining pages of secret memory with an inaccessible page at each end.
struct SecretSpan {
    std::byte* begin = nullptr;
    std::uint64_t pages = 0;

    [[nodiscard]] std::uint64_t bytes() const noexcept { return pages * k_page_size; }
};

struct SecretSpaceOptions {
    std::uint64_t capacity;  // bytes of addresses, a multiple of 4096
    std::uint64_t max_vmas;
    SecretBackend backend;
};

/// A reserved range of addresses in which spans of secret memory are mapped. The last page of what a span takes stays
/// reservation; so does the page before the range: each span is between two guards, and no guard is locked memory.
///
/// Thread-safe. In a child after fork all of it is inaccessible, and the owner calls nothing.
class SecretSpace {
public:
    /// Errors: ENOMEM (RLIMIT_AS, addresses), EINVAL.
    [[nodiscard]] static Result<std::unique_ptr<SecretSpace>> create(const SecretSpaceOptions& options);
    SecretSpace(const SecretSpace&) = delete;
    SecretSpace& operator=(const SecretSpace&) = delete;
    /// All spans are unmapped. A child after fork keeps its reservation.
    ~SecretSpace();

    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    /// Pages of the range, guards included.
    [[nodiscard]] std::uint64_t pages() const noexcept { return pages_; }
    [[nodiscard]] SecretBackend backend() const noexcept { return options_.backend; }

    /// Maps `pages` (1 or more) zeroed pages. Errors: those of `secret_memory::map`; ENOMEM (max_vmas, capacity).
    [[nodiscard]] Result<SecretSpan> map(std::uint64_t pages);
    /// Zeroes and unmaps a span. If the kernel refuses to unmap it, it is tried again later.
    void unmap(const SecretSpan& span) noexcept;

    struct Usage {
        std::uint64_t locked_bytes;
        std::uint64_t vmas;
    };
    [[nodiscard]] Usage usage() const;

private:
    SecretSpace(const SecretSpaceOptions& options, std::byte* base, std::uint64_t pages);
    Result<SecretSpan> map_locked(std::uint64_t pages);
    /// Makes the span a reservation, and its addresses free; or keeps it in `stuck_`.
    void release(const SecretSpan& span) noexcept;
    void release_stuck() noexcept;

    SecretSpaceOptions options_;
    std::byte* base_;
    std::uint64_t pages_;
    std::optional<NotInherited> not_inherited_;
    ForkGuard fork_guard_;

    mutable std::mutex mutex_;  // protects all below; before the fork gate
    RangeTree free_;
    // Invariant: has room for all spans, so that `release` needs no memory.
    std::vector<SecretSpan> stuck_;
    std::uint64_t spans_ = 0;  // mapped, those in `stuck_` too
    std::uint64_t mapped_pages_ = 0;
};

}  // namespace harena
