// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "harena/base/result.hpp"
#include "harena/base/types.hpp"

namespace harena {

/// Counts the pages that something uses, against a limit; a tree: what is charged to an account is charged to all above
/// it, too. Thread-safe. Lock-free: a charge is one compare-and-swap a level. Kernel: page_counter, memory cgroups.
///
/// Invariant: at no moment is `used` above the limit that was set when it grew.
class PageAccount {
public:
    static constexpr PageCount k_no_limit{std::numeric_limits<std::uint64_t>::max()};

    /// An account under `parent` (null: a root of its own), which lives as long as this one. The account must outlive
    /// what is charged to it: debug builds abort if pages are left at the end.
    explicit PageAccount(std::string name, PageCount limit = k_no_limit, std::shared_ptr<PageAccount> parent = nullptr);
    PageAccount(const PageAccount&) = delete;
    PageAccount& operator=(const PageAccount&) = delete;
    ~PageAccount();

    /// Adds `count` pages here and above, or nothing. Errors: ENOMEM, naming the account whose limit is in the way.
    Result<void> charge(PageCount count);
    /// The same without a message: null, or the account whose limit is in the way. Async-signal-safe.
    [[nodiscard]] const PageAccount* try_charge(PageCount count) noexcept;
    /// Takes back what was charged.
    void uncharge(PageCount count) noexcept;

    /// What is charged already stays, even if it is more.
    void set_limit(PageCount limit) noexcept { limit_.store(limit.value(), std::memory_order_relaxed); }

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] PageCount limit() const noexcept { return PageCount{limit_.load(std::memory_order_relaxed)}; }
    /// Pages charged here and below.
    [[nodiscard]] PageCount used() const noexcept { return PageCount{used_.load(std::memory_order_relaxed)}; }
    /// The most that `used` has been, charges included that an account above then refused.
    [[nodiscard]] PageCount peak() const noexcept { return PageCount{peak_.load(std::memory_order_relaxed)}; }
    /// How often this account's limit refused a charge.
    [[nodiscard]] std::uint64_t failures() const noexcept { return failures_.load(std::memory_order_relaxed); }

private:
    [[nodiscard]] bool charge_here(std::uint64_t count) noexcept;

    std::string name_;
    std::shared_ptr<PageAccount> parent_;
    std::atomic<std::uint64_t> limit_;
    std::atomic<std::uint64_t> used_{0};
    std::atomic<std::uint64_t> peak_{0};
    std::atomic<std::uint64_t> failures_{0};
};

}  // namespace harena
