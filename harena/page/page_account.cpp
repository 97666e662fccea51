// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_account.hpp"

#include <cerrno>
#include <utility>

#include "harena/base/assert.hpp"

namespace harena {

PageAccount::PageAccount(std::string name, PageCount limit, std::shared_ptr<PageAccount> parent)
    : name_{std::move(name)}, parent_{std::move(parent)}, limit_{limit.value()} {}

PageAccount::~PageAccount() { precondition(used_.load() == 0, "an account ends while pages are charged to it"); }

const PageAccount* PageAccount::try_charge(PageCount count) noexcept {
    for (PageAccount* account = this; account != nullptr; account = account->parent_.get()) {
        if (account->charge_here(count.value())) continue;
        for (PageAccount* charged = this; charged != account; charged = charged->parent_.get())
            charged->used_.fetch_sub(count.value(), std::memory_order_relaxed);
        return account;
    }
    return nullptr;
}

Result<void> PageAccount::charge(PageCount count) {
    const PageAccount* const full = try_charge(count);
    if (full == nullptr) return {};
    return fail(ENOMEM, "account '{}' is at its limit: {} of {} pages used, {} more wanted", full->name_,
                full->used().value(), full->limit().value(), count.value());
}

void PageAccount::uncharge(PageCount count) noexcept {
    for (PageAccount* account = this; account != nullptr; account = account->parent_.get()) {
        [[maybe_unused]] const auto before = account->used_.fetch_sub(count.value(), std::memory_order_relaxed);
        precondition(before >= count.value(), "more pages are taken off an account than were charged");
    }
}

bool PageAccount::charge_here(std::uint64_t count) noexcept {
    // Never an addition that is taken back if it was too much: another thread would see the sum over the limit.
    std::uint64_t used = used_.load(std::memory_order_relaxed);
    do {
        const std::uint64_t limit = limit_.load(std::memory_order_relaxed);
        if (used > limit || count > limit - used) {
            failures_.fetch_add(1, std::memory_order_relaxed);
            return false;
        }
    } while (!used_.compare_exchange_weak(used, used + count, std::memory_order_relaxed));
    std::uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < used + count && !peak_.compare_exchange_weak(peak, used + count, std::memory_order_relaxed)) {
    }
    return true;
}

}  // namespace harena
