// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "harena/base/result.hpp"

namespace harena {

/// Whoever maps pages of a pool beside the direct map, and unmaps late: such an address may outlive the page's owner.
/// It tells no more than the direct map does, until the page leaves that.
class AliasHolder {
public:
    AliasHolder() = default;
    AliasHolder(const AliasHolder&) = delete;
    AliasHolder& operator=(const AliasHolder&) = delete;
    virtual ~AliasHolder() = default;

    /// When it returns, no page that was free when it was called has an address of this holder's.
    virtual Result<void> drop_aliases() = 0;
};

/// The holders of a pool, and up to which page that left the direct map they have let go. Thread-safe.
class AliasHolders {
public:
    /// Errors: ENOMEM.
    Result<void> add(AliasHolder& holder);
    void remove(AliasHolder& holder) noexcept;

    /// When it returns, the first `departures` pages or blocks that left the direct map have no other address either.
    /// Called without locks of the page layer. Errors: those of the holders.
    Result<void> drop(std::uint64_t departures) {
        if (dropped_.load(std::memory_order_acquire) >= departures) [[likely]]
            return {};
        return drop_now(departures);
    }

private:
    Result<void> drop_now(std::uint64_t departures);

    std::mutex mutex_;  // protects holders_; held while they drop
    std::vector<AliasHolder*> holders_;
    std::atomic<std::uint64_t> dropped_{0};
};

}  // namespace harena
