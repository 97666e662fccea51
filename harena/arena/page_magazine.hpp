// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "harena/base/types.hpp"

namespace harena {

/// Free pages that one thread keeps at hand, the last put first: recycled ones, as a hint. Their words decide: anybody
/// may take such a page from under the magazine. Only its thread uses it. Alone on its cache lines.
class alignas(128) PageMagazine {
public:
    static constexpr std::size_t k_capacity = 64;
    /// How many pages go back at a time.
    static constexpr std::size_t k_spill = k_capacity / 2;

    struct Entry {
        PageIndex page;
        /// Whether this thread had it a moment ago, so that it is in the processor's cache.
        bool warm;
    };

    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] bool full() const noexcept { return count_ == k_capacity; }
    [[nodiscard]] std::size_t count() const noexcept { return count_; }

    void push(Entry entry) noexcept {
        pages_[count_++] = static_cast<std::uint32_t>(entry.page.value()) | (entry.warm ? k_warm : 0);
    }
    [[nodiscard]] Entry pop() noexcept { return entry(--count_); }
    /// Takes out the `count` pages that were put first and calls `visit(page)` for each.
    template <typename Visit>
    void spill(std::size_t count, Visit&& visit) {
        for (std::size_t i = 0; i < count; ++i) visit(entry(i).page);
        for (std::size_t i = count; i < count_; ++i) pages_[i - count] = pages_[i];
        count_ -= count;
    }

    /// Refills since this thread last freed a page: one that only takes gets more at a time.
    unsigned refills = 0;

private:
    static constexpr std::uint32_t k_warm = 1U << 31;

    [[nodiscard]] Entry entry(std::size_t at) const noexcept {
        return {.page = PageIndex{pages_[at] & ~k_warm}, .warm = (pages_[at] & k_warm) != 0};
    }

    std::size_t count_ = 0;
    std::array<std::uint32_t, k_capacity> pages_;
};

}  // namespace harena
