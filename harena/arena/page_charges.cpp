// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/page_charges.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

namespace harena {

Result<PageCharges::Id> PageCharges::id_of(const std::shared_ptr<PageAccount>& account) try {
    if (account == nullptr) return Id{0};
    const std::lock_guard lock{mutex_};
    const auto known = std::ranges::find(owned_, account);
    const auto id = static_cast<std::size_t>(known - owned_.begin()) + 1;
    if (known == owned_.end()) {
        if (id == k_ids) return fail(EUSERS, "an arena knows {} accounts at most", k_ids - 1);
        owned_.push_back(account);
        accounts_[id].store(account.get(), std::memory_order_release);
        any_.store(true, std::memory_order_release);
    }
    return static_cast<Id>(id);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep one more account");
}

bool PageCharges::charge(Id payer, PageCount count) noexcept {
    return payer == 0 || account(payer)->try_charge(count) == nullptr;
}

void PageCharges::uncharge(Id payer, PageCount count) noexcept {
    if (payer != 0) account(payer)->uncharge(count);
}

void PageCharges::assign(PageRange pages, Id payer) noexcept {
    if (!any_.load(std::memory_order_acquire)) return;
    // Neighbours mostly have the same payer: one change of its account for all of them.
    Id left = 0;
    std::uint64_t count = 0;
    for (std::uint64_t page = pages.begin.value(); page < pages.end.value(); ++page) {
        const Id before = payers_[page].exchange(payer, std::memory_order_acq_rel);
        if (before == 0) continue;
        if (before != left) {
            uncharge(left, PageCount{count});
            left = before;
            count = 0;
        }
        ++count;
    }
    uncharge(left, PageCount{count});
}

void PageCharges::assign_late(PageIndex page, Id payer, const ArenaWords& words) noexcept {
    std::atomic<Id>& entry = payers_[page.value()];
    Id none = 0;
    if (!entry.compare_exchange_strong(none, payer, std::memory_order_acq_rel)) {
        uncharge(payer, PageCount{1});  // freed and allocated meanwhile
        return;
    }
    if (words.load(page).state() == PageState::used) return;
    // Who frees it takes the entry back, or this does.
    if (Id mine = payer; entry.compare_exchange_strong(mine, 0, std::memory_order_acq_rel))
        uncharge(payer, PageCount{1});
}

bool PageCharges::settle(ArenaWords& words, PageOwner mine) noexcept {
    if (!any_.load(std::memory_order_acquire)) return false;
    bool found = false;
    for (std::uint64_t page = 0; page < payers_.size(); ++page) {
        Id payer = payers_[page].load(std::memory_order_acquire);
        const PageIndex index{page};
        // What has this process as its owner is dealt with by the thread that has it, or had.
        if (payer == 0 || words.load(index).owner() == mine) continue;
        if (!payers_[page].compare_exchange_strong(payer, 0, std::memory_order_acq_rel)) continue;
        // A thread of this process may have got the page meanwhile, for the same payer: then it was its entry that was
        // taken, which is put back.
        Id none = 0;
        if (words.load(index).owner() == mine && payers_[page].compare_exchange_strong(none, payer)) continue;
        uncharge(payer, PageCount{1});
        found = true;
    }
    return found;
}

}  // namespace harena
