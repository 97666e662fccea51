// SPDX-License-Identifier: Apache-2.0
#include "harena/base/bitmap.hpp"

#include "harena/base/assert.hpp"

namespace harena {

Bitmap::Bitmap(std::size_t bits) : words_((bits + 63) / 64), bits_{bits} {}

template <bool Set>
void Bitmap::assign_range(std::size_t begin, std::size_t end) noexcept {
    precondition(begin <= end && end <= bits_, "a bit range must lie inside the bitmap");
    while (begin < end) {
        const std::size_t in_word = std::min<std::size_t>(64 - begin % 64, end - begin);
        const std::uint64_t ones = in_word == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << in_word) - 1;
        const std::uint64_t bits = ones << (begin % 64);
        if constexpr (Set) {
            words_[begin / 64] |= bits;
        } else {
            words_[begin / 64] &= ~bits;
        }
        begin += in_word;
    }
}

template <bool Set>
std::size_t Bitmap::find_next(std::size_t from) const noexcept {
    for (std::size_t bit = from; bit < bits_; bit = (bit / 64 + 1) * 64) {
        const std::uint64_t word = (Set ? words_[bit / 64] : ~words_[bit / 64]) >> (bit % 64);
        if (word != 0) return std::min(bits_, bit + static_cast<std::size_t>(std::countr_zero(word)));
    }
    return bits_;
}

void Bitmap::set_range(std::size_t begin, std::size_t end) noexcept { assign_range<true>(begin, end); }
void Bitmap::clear_range(std::size_t begin, std::size_t end) noexcept { assign_range<false>(begin, end); }
std::size_t Bitmap::find_next_set(std::size_t from) const noexcept { return find_next<true>(from); }
std::size_t Bitmap::find_next_clear(std::size_t from) const noexcept { return find_next<false>(from); }

std::size_t Bitmap::count() const noexcept {
    std::size_t sum = 0;
    for (const std::uint64_t word : words_) sum += static_cast<std::size_t>(std::popcount(word));
    return sum;
}

AtomicIntake::AtomicIntake(std::size_t size)
    : summary_words_{(size + 64 * 64 - 1) / (64 * 64)},
      leaves_{std::make_unique<std::atomic<std::uint64_t>[]>(summary_words_ * 64)},
      summary_{std::make_unique<std::atomic<std::uint64_t>[]>(summary_words_)} {}

}  // namespace harena
