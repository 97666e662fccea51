// SPDX-License-Identifier: Apache-2.0
#include "harena/page/alias_holder.hpp"

#include <cerrno>
#include <new>

namespace harena {

Result<void> AliasHolders::add(AliasHolder& holder) {
    const std::lock_guard lock{mutex_};
    try {
        holders_.push_back(&holder);
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the list of those who map a pool's pages");
    }
    return {};
}

void AliasHolders::remove(AliasHolder& holder) noexcept {
    const std::lock_guard lock{mutex_};
    std::erase(holders_, &holder);
}

Result<void> AliasHolders::drop_now(std::uint64_t departures) {
    const std::lock_guard lock{mutex_};
    if (dropped_.load(std::memory_order_relaxed) >= departures) return {};
    for (AliasHolder* const holder : holders_) HARENA_CHECK_OK(holder->drop_aliases());
    dropped_.store(departures, std::memory_order_release);
    return {};
}

}  // namespace harena
