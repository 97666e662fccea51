// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace harena {

/// What the canaries of one slab, or of one run of pages, are made of. It lies in the secret memory itself, before all
/// that it guards, where the kernel wrote it.
struct CanaryKey {
    std::uint64_t first;
    std::uint64_t second;
};

/// Bytes that are written round secrets, and looked at when they are freed. No byte is zero: the usual overrun by one
/// writes a zero.
class Canary {
public:
    static constexpr std::size_t k_bytes = 16;

    /// The canary number `index` under `key`.
    Canary(const CanaryKey& key, std::uint64_t index) noexcept : mixed_{mix(key, index)} {
        words_ = {mixed_ | k_no_zeros, (mixed_ * k_odd ^ mixed_ >> 7) | k_no_zeros};
    }
    /// The same with `key` itself: bytes before the first secret.
    static void make_usable(CanaryKey& key) noexcept {
        key.first |= k_no_zeros;
        key.second |= k_no_zeros;
    }

    /// Writes [begin, end); byte i of an area gets the same value however much of it is written.
    void fill(std::byte* begin, std::byte* end) const noexcept {
        each(begin, end, [this](std::byte* at, std::size_t from, std::size_t count) {
            std::memcpy(at, bytes() + from, count);
            return true;
        });
    }
    /// Whether [begin, end) is what `fill` wrote.
    [[nodiscard]] bool intact(std::byte* begin, std::byte* end) const noexcept {
        return each(begin, end, [this](const std::byte* at, std::size_t from, std::size_t count) {
            return std::memcmp(at, bytes() + from, count) == 0;
        });
    }
    /// The same for a whole canary at a multiple of 16.
    void put(std::byte* at) const noexcept { std::memcpy(at, words_.data(), k_bytes); }
    [[nodiscard]] bool intact(const std::byte* at) const noexcept {
        std::array<std::uint64_t, 2> found;
        std::memcpy(found.data(), at, k_bytes);
        return ((found[0] ^ words_[0]) | (found[1] ^ words_[1])) == 0;
    }

    /// 16 bits that only who knows the key can make of `value`: for records outside of the secret memory.
    [[nodiscard]] std::uint16_t check_of(std::uint64_t value) const noexcept {
        return static_cast<std::uint16_t>((mixed_ ^ value * k_other_odd) * k_odd >> 48);
    }

private:
    static constexpr std::uint64_t k_no_zeros = 0x0101'0101'0101'0101;
    static constexpr std::uint64_t k_other_odd = 0xd6e8'feb8'6659'fd93;
    static constexpr std::uint64_t k_odd = 0x9e37'79b9'7f4a'7c15;

    [[nodiscard]] static std::uint64_t mix(const CanaryKey& key, std::uint64_t index) noexcept {
        std::uint64_t x = (key.first ^ index) * k_odd;
        x = (x ^ x >> 32 ^ key.second) * k_odd;
        x = (x ^ x >> 29) * k_odd;
        return x ^ x >> 32;
    }
    [[nodiscard]] const std::byte* bytes() const noexcept { return reinterpret_cast<const std::byte*>(words_.data()); }
    /// Calls `work(at, from, count)` for pieces of [begin, end) that are bytes [from, from + count) of the canary, as
    /// long as it returns true; whether it always did.
    template <typename Work>
    static bool each(std::byte* begin, std::byte* end, const Work& work) noexcept {
        while (begin != end) {
            const std::size_t from = reinterpret_cast<std::uintptr_t>(begin) % k_bytes;
            const std::size_t count = std::min(k_bytes - from, static_cast<std::size_t>(end - begin));
            if (!work(begin, from, count)) return false;
            begin += count;
        }
        return true;
    }

    std::uint64_t mixed_;
    std::array<std::uint64_t, 2> words_;
};

}  // namespace harena
