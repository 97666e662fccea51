// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/page_grid.hpp"

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "harena/arena/arena.hpp"
#include "harena/arena/page_states.hpp"
#include "harena/base/os/memory.hpp"

namespace harena::tool {

namespace {

PageClass class_of(std::uint8_t state) noexcept {
    switch (static_cast<PageState>(state)) {
        case PageState::absent:
        case PageState::freeing:
            return PageClass::free;
        case PageState::populating:
        case PageState::used:
            return PageClass::allocated;
        case PageState::recycled:
            return PageClass::recycled;
        case PageState::reserved:
            return PageClass::reserved;
    }
    return PageClass::unknown;
}

}  // namespace

std::uint64_t PageTally::pages() const noexcept {
    return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

PageClass PageTally::majority() const noexcept {
    const auto most = std::max_element(counts_.begin() + 1, counts_.end());
    return static_cast<PageClass>(*most >= counts_[0] && *most != 0 ? most - counts_.begin() : 0);
}

PageClass PageTally::runner_up() const noexcept {
    PageTally rest = *this;
    rest.counts_[std::to_underlying(majority())] = 0;
    return rest.majority();
}

PageGrid::PageGrid(std::uint64_t page_count) : pages{page_count} {
    while ((pages + pages_per_group - 1) / pages_per_group > k_max_groups) pages_per_group *= 2;
    groups.resize((pages + pages_per_group - 1) / pages_per_group);
}

void PageGrid::add(std::uint64_t page, PageClass what) noexcept {
    total.add(what);
    groups[page / pages_per_group].add(what);
}

std::uint64_t arena_pages_of_file(std::uint64_t bytes) noexcept {
    const std::uint64_t all = bytes / k_page_size;
    const std::uint64_t pages = all - (all + k_page_size) / (k_page_size + 1);
    const bool exact = bytes_of(PageCount{pages}) + align_up(pages, k_page_size) == bytes;
    return exact && PageCount{pages} <= Arena::k_max_pages ? pages : 0;
}

Result<PageGrid> read_page_grid(int fd, std::span<const os::AddressRange> huge) {
    const auto facts = os::facts_of(fd);
    if (!facts) return os::fail_with(facts.error(), "its file cannot be looked at");
    const std::uint64_t pages = facts->regular ? arena_pages_of_file(facts->bytes) : 0;
    if (pages == 0) return fail(EINVAL, "its file, of {} bytes, is no arena's", facts->bytes);
    PageGrid grid{pages};
    std::vector<std::uint8_t> states(std::min<std::uint64_t>(pages, 64 * k_kib));
    for (std::uint64_t page = 0; page < pages;) {
        const std::uint64_t count = std::min<std::uint64_t>(states.size(), pages - page);
        const auto got = os::pread(fd, states.data(), count, bytes_of(PageCount{pages}) + page);
        if (!got && got.error().code == EINTR) continue;
        if (!got) return os::fail_with(got.error(), "the states of its pages cannot be read");
        if (*got == 0) return fail(EINVAL, "its file is cut off");
        for (std::uint64_t i = 0; i < *got; ++i, ++page) {
            while (!huge.empty() && huge.front().end <= page) huge = huge.subspan(1);
            PageClass what = class_of(states[i]);
            if (what == PageClass::allocated && !huge.empty() && huge.front().begin <= page) what = PageClass::huge;
            grid.add(page, what);
        }
    }
    return grid;
}

}  // namespace harena::tool
