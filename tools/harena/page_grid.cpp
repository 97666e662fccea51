// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/page_grid.hpp"

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/arena_words.hpp"
#include "harena/base/os/memory.hpp"

namespace harena::tool {

namespace {

PageClass class_of(std::uint32_t word) noexcept {
    switch (static_cast<PageState>(word & 0xff)) {
        case PageState::absent:
        case PageState::freeing:
            return PageClass::free;
        case PageState::populating:
        case PageState::clearing:
        case PageState::touched:
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

Result<PageGrid> read_page_grid(int fd, std::span<const os::AddressRange> huge) {
    const auto facts = os::facts_of(fd);
    if (!facts) return os::fail_with(facts.error(), "its file cannot be looked at");
    if (!facts->regular) return fail(EINVAL, "its file is no arena's");
    HARENA_TRY(const ArenaGeometry geometry, ArenaFile::read_geometry(fd, facts->bytes));
    const std::uint64_t pages = geometry.pages.value();
    PageGrid grid{pages};
    std::vector<std::uint32_t> words(std::min<std::uint64_t>(pages, 16 * k_kib));
    for (std::uint64_t page = 0; page < pages;) {
        const std::uint64_t count = std::min<std::uint64_t>(words.size(), pages - page);
        const auto got = os::pread(fd, words.data(), count * sizeof(std::uint32_t),
                                   ArenaFile::words_offset(geometry) + page * sizeof(std::uint32_t));
        if (!got && got.error().code == EINTR) continue;
        if (!got) return os::fail_with(got.error(), "the states of its pages cannot be read");
        if (*got < sizeof(std::uint32_t)) return fail(EINVAL, "its file is cut off");
        for (std::uint64_t i = 0; i < *got / sizeof(std::uint32_t); ++i, ++page) {
            while (!huge.empty() && huge.front().end <= page) huge = huge.subspan(1);
            PageClass what = class_of(words[i]);
            if (what == PageClass::allocated && !huge.empty() && huge.front().begin <= page) what = PageClass::huge;
            grid.add(page, what);
        }
    }
    return grid;
}

}  // namespace harena::tool
