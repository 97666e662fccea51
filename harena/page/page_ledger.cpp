// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page_ledger.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <string>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

namespace {

[[maybe_unused]] std::string describe(const Site& site) {  // in debug builds
    if (site.line() == 0) return "unknown";
    return fmt::format("{}:{}", site.file_name(), site.line());
}

/// A bug of the caller: debug builds stop at it.
Error report(int code, std::string message, const Site& where) {
    precondition(false, message, where);
    return {code, std::move(message)};
}

}  // namespace

Result<PageLedger> PageLedger::create(const PageArray& pages) {
    const std::size_t bytes = std::size_t{pages.size()} * sizeof(Sites);
    if constexpr (!k_debug_checks) return PageLedger{pages, {nullptr, Unmap{bytes}}};
    const auto mapped =
        os::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!mapped) return map_error(mapped.error(), "cannot map the places of allocations");
    // All zero bytes are a source_location: that of nothing.
    return PageLedger{pages, {static_cast<Sites*>(*mapped), Unmap{bytes}}};
}

void PageLedger::Unmap::operator()(Sites* sites) const noexcept { (void)os::munmap(sites, bytes); }

Error PageLedger::refusal(const Page& page, Order order, const PageWord& word, const Site& where) const {
    std::string history;
    if constexpr (k_debug_checks) {
        const Sites& sites = sites_[index(page)];
        history =
            fmt::format("; last allocated at {}, last freed at {}", describe(sites.allocated), describe(sites.freed));
    }
    const std::uint32_t pfn = index(page);
    const unsigned k = order.value();
    switch (word.state) {
        case BlockState::allocated:
            if (word.order != order)
                return report(EINVAL,
                              fmt::format("free of page {} with order {}: it was allocated with order {}{}", pfn, k,
                                          word.order.value(), history),
                              where);
            return report(EBUSY, fmt::format("free of page {}: it has {} references{}", pfn, word.references, history),
                          where);
        case BlockState::free:
        case BlockState::cached:
            return report(EINVAL, fmt::format("double free of page {} (order {}){}", pfn, k, history), where);
        case BlockState::inner:
            break;
    }
    return report(EINVAL,
                  fmt::format("free of page {} (order {}): no allocated block begins there; freed before, or the "
                              "inside of a block{}",
                              pfn, k, history),
                  where);
}

Error PageLedger::not_a_page(const Page* page, const Site& where) {
    return report(EINVAL, fmt::format("{} is not a page of this pool", fmt::ptr(page)), where);
}

}  // namespace harena
