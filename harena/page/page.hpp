// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "harena/base/result.hpp"
#include "harena/page/order.hpp"

namespace harena {

class PageAccount;

enum class BlockState : std::uint8_t {
    inner,      // inside a block, whatever that is, or not in the pool yet
    free,       // first page of a block in a `FreeBlocks`
    cached,     // in a thread's cache, or on its way from one owner to another
    allocated,  // first page of a block that somebody has
};

/// What is known of a page, packed in one word that changes in one step: a free takes a block only from exactly the
/// state it expects, so that of two frees of a page, on any threads, one fails.
struct PageWord {
    BlockState state = BlockState::inner;
    Order order{};
    std::uint8_t list = 0;  // which FreeBlocks, if free
    bool zero = false;      // all bytes of the block are known to be 0
    bool unmapped = false;  // not in the direct map
    std::uint32_t references = 0;

    static constexpr std::uint64_t k_unmapped_bit = 1U << 25;

    [[nodiscard]] static constexpr PageWord from(std::uint64_t bits) noexcept {
        return {.state = static_cast<BlockState>(bits & 0xff),
                .order = Order{static_cast<std::uint8_t>(bits >> 8)},
                .list = static_cast<std::uint8_t>(bits >> 16),
                .zero = (bits >> 24 & 1) != 0,
                .unmapped = (bits & k_unmapped_bit) != 0,
                .references = static_cast<std::uint32_t>(bits >> 32)};
    }
    [[nodiscard]] constexpr std::uint64_t bits() const noexcept {
        return static_cast<std::uint64_t>(state) | std::uint64_t{order.value()} << 8 | std::uint64_t{list} << 16 |
               std::uint64_t{zero} << 24 | (unmapped ? k_unmapped_bit : 0) | std::uint64_t{references} << 32;
    }
};

/// The descriptor of a page. It is apart from the page itself, which may have no address, and in which nothing of ours
/// is stored while it is free. Only that of a block's first page says something; all others are `inner`.
class Page {
public:
    Page() = delete;
    Page(const Page&) = delete;
    Page& operator=(const Page&) = delete;
    ~Page() = default;

    [[nodiscard]] PageWord load() const noexcept { return PageWord::from(word_.load(std::memory_order_acquire)); }
    void store(const PageWord& word) noexcept { word_.store(word.bits(), std::memory_order_release); }
    /// The word as a number, for those who are in a hurry.
    [[nodiscard]] std::uint64_t load_bits() const noexcept { return word_.load(std::memory_order_acquire); }
    /// Replaces the word if it is `expected`; else sets `expected` to what it is.
    [[nodiscard]] bool exchange(std::uint64_t& expected, const PageWord& desired) noexcept {
        return word_.compare_exchange_strong(expected, desired.bits(), std::memory_order_acq_rel);
    }

    /// The order of the block this page begins, as long as the caller has it.
    [[nodiscard]] Order order() const noexcept { return load().order; }
    /// Whether the block is out of the direct map: it has no address but what its owner maps.
    [[nodiscard]] bool unmapped() const noexcept { return load().unmapped; }
    /// Who is charged for the block; null: nobody. For the owner of the block.
    [[nodiscard]] PageAccount* account() const noexcept { return account_; }

    /// For the block's owner, to use as it likes; not kept while the block is free.
    std::uint64_t owner_data = 0;

private:
    friend class FreeBlocks;
    friend class PageLedger;

    // Links of the list of free blocks that this page's block is in: page frame numbers. Protected by the list's lock.
    std::uint32_t next_;
    std::uint32_t previous_;
    PageAccount* account_;
    std::atomic<std::uint64_t> word_;
};
static_assert(sizeof(Page) == 32);

/// The descriptors of pages 0 to `size()` - 1, all zero (`inner`) at first; memory only where one is written.
class PageArray {
public:
    /// Errors: ENOMEM.
    [[nodiscard]] static Result<PageArray> create(std::uint32_t pages);
    PageArray(PageArray&& other) noexcept;
    PageArray& operator=(PageArray&&) = delete;
    PageArray(const PageArray&) = delete;
    PageArray& operator=(const PageArray&) = delete;
    ~PageArray();

    [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
    [[nodiscard]] Page& operator[](Pfn pfn) const noexcept { return pages_[pfn.value()]; }
    /// Of a descriptor of this array.
    [[nodiscard]] Pfn pfn_of(const Page& page) const noexcept {
        return Pfn{static_cast<std::uint32_t>(&page - pages_)};
    }
    /// Of any pointer; none if it is not one to a descriptor of this array.
    [[nodiscard]] std::optional<Pfn> find(const Page* page) const noexcept {
        const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(page) - reinterpret_cast<std::uintptr_t>(pages_);
        if (offset >= std::uintptr_t{size_} * sizeof(Page) || offset % sizeof(Page) != 0) return std::nullopt;
        return Pfn{static_cast<std::uint32_t>(offset / sizeof(Page))};
    }

private:
    PageArray(Page* pages, std::uint32_t size) noexcept : pages_{pages}, size_{size} {}

    Page* pages_;
    std::uint32_t size_;
};

}  // namespace harena
