// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace harena {

/// Above it, the C library's wide stores are faster.
inline constexpr std::size_t k_most_wiped_by_words = 256;

/// Writes zeros, which no compiler drops, whether or not anybody reads them: small pieces by volatile stores, which are
/// observable behaviour, large ones by the C library's explicit_bzero, which no link-time optimisation looks into.
/// Async-signal-safe.
void wipe(void* at, std::size_t bytes) noexcept;

/// The same for a few whole words, at a multiple of 8.
inline void wipe_words(void* at, std::size_t bytes) noexcept {
    using Word [[gnu::may_alias]] = std::uint64_t;
    auto* const words = static_cast<volatile Word*>(at);
    for (std::size_t i = 0; i < bytes / sizeof(Word); ++i) words[i] = 0;
}

/// Whether both have the same bytes, in a time that depends on their sizes only. Different sizes are told at once: a
/// size is no secret. Async-signal-safe.
[[nodiscard]] bool equal_in_constant_time(std::span<const std::byte> a, std::span<const std::byte> b) noexcept;

/// Wipes a local variable, or part of one, when the scope ends, however it does.
class WipedAtEnd {
public:
    WipedAtEnd(void* at, std::size_t bytes) noexcept : at_{at}, bytes_{bytes} {}
    WipedAtEnd(const WipedAtEnd&) = delete;
    WipedAtEnd& operator=(const WipedAtEnd&) = delete;
    ~WipedAtEnd() { wipe(at_, bytes_); }

private:
    void* at_;
    std::size_t bytes_;
};

}  // namespace harena
