// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>

namespace harena {

/// A number with a meaning of its own: passing one kind for another does not compile.
template <typename Tag, typename Representation>
class StrongNumber {
public:
    constexpr StrongNumber() noexcept = default;
    constexpr explicit StrongNumber(Representation value) noexcept : value_{value} {}

    [[nodiscard]] constexpr Representation value() const noexcept { return value_; }

    friend constexpr auto operator<=>(StrongNumber, StrongNumber) noexcept = default;

private:
    Representation value_{};
};

/// How many pages; 0 is allowed where the function's comment says so.
using PageCount = StrongNumber<struct PageCountTag, std::uint64_t>;

/// Which page of an arena: 0 is the one at `user_vm_start`.
using PageIndex = StrongNumber<struct PageIndexTag, std::uint64_t>;

/// A user pointer's 64 bits: what the host and the stored form of a BPF pointer have in common.
using UserAddress = StrongNumber<struct UserAddressTag, std::uint64_t>;

[[nodiscard]] constexpr PageIndex operator+(PageIndex index, PageCount count) noexcept {
    return PageIndex{index.value() + count.value()};
}
[[nodiscard]] constexpr PageCount operator+(PageCount a, PageCount b) noexcept {
    return PageCount{a.value() + b.value()};
}
[[nodiscard]] constexpr PageCount operator-(PageIndex end, PageIndex begin) noexcept {
    return PageCount{end.value() - begin.value()};
}

/// Pages [begin, end).
struct PageRange {
    PageIndex begin;
    PageIndex end;

    [[nodiscard]] static constexpr PageRange of(PageIndex begin, PageCount count) noexcept {
        return {begin, begin + count};
    }
    [[nodiscard]] static constexpr PageRange one(PageIndex page) noexcept { return of(page, PageCount{1}); }
    [[nodiscard]] constexpr PageCount count() const noexcept { return end - begin; }
    [[nodiscard]] constexpr bool empty() const noexcept { return begin == end; }
    friend constexpr bool operator==(PageRange, PageRange) noexcept = default;
};

}  // namespace harena
