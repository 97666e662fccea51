// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/wipe.hpp"

#include <cstdint>
#include <cstring>

namespace harena {

namespace {

constexpr std::size_t k_word = sizeof(std::uint64_t);

std::uint64_t word_at(const std::byte* at) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, at, k_word);
    return word;
}

}  // namespace

void wipe(void* at, std::size_t bytes) noexcept {
    if (bytes > k_most_wiped_by_words) {
        ::explicit_bzero(at, bytes);
        return;
    }
    auto* const begin = static_cast<std::byte*>(at);
    std::size_t done = 0;
    if (reinterpret_cast<std::uintptr_t>(begin) % k_word == 0) {
        done = bytes / k_word * k_word;
        wipe_words(begin, done);
    }
    for (; done < bytes; ++done) *static_cast<volatile std::byte*>(begin + done) = std::byte{0};
}

bool equal_in_constant_time(std::span<const std::byte> a, std::span<const std::byte> b) noexcept {
    if (a.size() != b.size()) return false;
    // Volatile: each step's value is to be seen, so none can be left out once the outcome is known.
    volatile std::uint64_t different = 0;
    std::size_t i = 0;
    for (; i + k_word <= a.size(); i += k_word) different = different | (word_at(a.data() + i) ^ word_at(b.data() + i));
    for (; i < a.size(); ++i) different = different | std::to_integer<std::uint64_t>(a[i] ^ b[i]);
    const std::uint64_t all = different;
    return ((all | (~all + 1)) >> 63) == 0;
}

}  // namespace harena
