// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "harena/base/bitmap.hpp"
#include "harena/secret/secret_space.hpp"

namespace harena {

/// The pages of a heap's blocks. Taken lowest first, so that blocks are filled in order and one after the other.
/// Not thread-safe: `SlabStore` has the lock.
class SecretBlocks {
public:
    static constexpr std::uint64_t k_first_pages = 64;  // 256 KiB
    static constexpr std::uint64_t k_most_pages = 512;  // 2 MiB
    static constexpr std::uint64_t k_fewest_pages = 4;  // 16 KiB

    /// The first of `pages` adjoining pages, all zero; null if no block has so many.
    [[nodiscard]] std::byte* take(std::uint64_t pages) noexcept;
    /// Takes pages back, which are zero.
    void give(const std::byte* first, std::uint64_t pages) noexcept;
    /// Whether `take` would find something.
    [[nodiscard]] bool has(std::uint64_t pages) const noexcept;

    /// Makes room for the records of one more block. Throws std::bad_alloc.
    void reserve() { blocks_.reserve(blocks_.size() + 1); }
    /// Adds a block of zero pages; `used` has a bit for each, clear.
    void add(const SecretSpan& span, Bitmap used) noexcept;
    /// Takes out a block all of whose pages are free.
    [[nodiscard]] std::optional<SecretSpan> remove_free_block() noexcept;

    /// Zeroes all memory, whatever is in it.
    void wipe_all() noexcept;

    [[nodiscard]] std::size_t count() const noexcept { return blocks_.size(); }

private:
    struct Block {
        SecretSpan span;
        Bitmap used;  // bit i is set iff page i was taken
        std::uint64_t free_pages;
    };
    [[nodiscard]] static std::optional<std::uint64_t> find(const Block& block, std::uint64_t pages) noexcept;

    std::vector<Block> blocks_;  // by address
};

}  // namespace harena
