// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "harena/base/os/inspect.hpp"
#include "harena/base/result.hpp"

namespace harena::tool {

/// What a page of an arena is to who looks at it.
enum class PageClass : std::uint8_t {
    free,
    recycled,   // free, with memory behind it
    allocated,  // on entries of 4 KiB
    huge,       // allocated, on an entry of 2 MiB
    reserved,
    unknown,  // a state that there is not
    count_,
};
inline constexpr std::size_t k_page_classes = std::to_underlying(PageClass::count_);

/// How many pages of each class some pages are.
class PageTally {
public:
    void add(PageClass page) noexcept { ++counts_[std::to_underlying(page)]; }
    [[nodiscard]] std::uint64_t operator[](PageClass page) const noexcept { return counts_[std::to_underlying(page)]; }
    [[nodiscard]] std::uint64_t pages() const noexcept;
    /// That of most pages; of classes with as many, the first but `free`.
    [[nodiscard]] PageClass majority() const noexcept;
    /// That of most other pages, if there are any.
    [[nodiscard]] PageClass runner_up() const noexcept;
    [[nodiscard]] bool mixed() const noexcept { return (*this)[majority()] != pages(); }

private:
    std::array<std::uint32_t, k_page_classes> counts_{};
};

/// The pages of an arena, summed up for a picture: groups of as many adjoining pages as make at most `k_max_groups`.
struct PageGrid {
    static constexpr std::uint64_t k_max_groups = 2048;

    std::uint64_t pages = 0;
    std::uint64_t pages_per_group = 1;
    PageTally total;
    std::vector<PageTally> groups;

    explicit PageGrid(std::uint64_t page_count);
    void add(std::uint64_t page, PageClass what) noexcept;
};

/// Reads the states of an arena's pages from its file. `huge`: ranges of pages that are on large entries, ascending.
/// Errors: EINVAL (no arena's file), those of reading.
[[nodiscard]] Result<PageGrid> read_page_grid(int fd, std::span<const os::AddressRange> huge);

}  // namespace harena::tool
