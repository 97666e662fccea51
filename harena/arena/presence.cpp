// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/presence.hpp"

#include <linux/userfaultfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "harena/arena/page_clearing.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/shared_file.hpp"

namespace harena {

namespace {

/// Pages that are populated at a time where the caller may be told to stop: under a millisecond.
constexpr PageCount k_batch{512};
constexpr int k_register_attempts = 100;

Result<os::FileDescriptor> open_userfaultfd(bool hugetlb) {
    auto uffd = os::userfaultfd();
    if (!uffd)
        return fail(
            uffd.error().code,
            "arenas need userfaultfd(2), which this process may not have here ({}); Linux 5.11 and later allow it "
            "without privilege unless a sandbox (seccomp) refuses it: see 'harena doctor'",
            os::describe(uffd.error()));
    const std::uint64_t kind = hugetlb ? UFFD_FEATURE_MISSING_HUGETLBFS : UFFD_FEATURE_MISSING_SHMEM;
    if (const auto agreed = os::uffd_api(uffd->get(), UFFD_FEATURE_SIGBUS | kind); !agreed)
        return fail(agreed.error().code,
                    "this kernel's userfaultfd lacks SIGBUS delivery for shared memory (Linux 4.14): {}",
                    os::describe(agreed.error()));
    return std::move(*uffd);
}

// 2 MiB of zeros that nobody can write to: the kernel's page of zeros, mapped again and again.
const std::byte* zero_block() noexcept {
    static const std::byte* const block = [] {
        const auto mapped =
            os::mmap(nullptr, k_huge_page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return mapped ? static_cast<const std::byte*>(*mapped) : nullptr;
    }();
    return block;
}

}  // namespace

Presence::Presence(std::byte* address, std::unique_ptr<ArenaFile> file, PageCharges& charges, const Options& options)
    : address_{address},
      file_{std::move(file)},
      charges_{charges},
      options_{options},
      data_offset_{ArenaFile::data_offset(file_->geometry())},
      me_{file_->slots().mine()},
      words_{file_->words()},
      touched_{words_.count().value()} {
    const ArenaGeometry& g = geometry();
    // The page whose pointer has 32 zero bits.
    const std::uint64_t low = g.user_vm_start.value() % (4 * k_gib);
    if (g.null_guard && low == 0) guard_ = PageIndex{0};
}

Result<std::unique_ptr<Presence>> Presence::create(std::byte* address, std::unique_ptr<ArenaFile> file,
                                                   PageCharges& charges, const Options& options) {
    std::unique_ptr<Presence> presence{new Presence{address, std::move(file), charges, options}};
    const ArenaGeometry& geometry = presence->geometry();
    if (geometry.watched) {
        HARENA_TRY(presence->uffd_, open_userfaultfd(geometry.hugetlb));
    }
    if (geometry.hugetlb && zero_block() == nullptr) return fail(ENOMEM, "no address space for a block of zeros");
    HARENA_CHECK_OK(presence->map());
    return presence;
}

Result<void> Presence::map() {
    const std::uint64_t bytes = harena::bytes_of(pages());
    // PROT_NONE and unlocked until userfaultfd watches it: under mlockall(MCL_FUTURE) a writable mapping would be
    // filled at once, 4 GiB of it.
    const auto mapped = os::mmap(address_, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, file_->fd(), data_offset_);
    if (!mapped) return os::fail_with(mapped.error(), "cannot map the arena's memfd into its window");
    (void)os::munlock(address_, bytes);
    if (geometry().watched)
        if (const auto registered = os::uffd_register_missing(uffd_.get(), address_, bytes); !registered)
            return os::fail_with(registered.error(), "cannot register the arena with userfaultfd");
    if (const auto opened = os::mprotect(address_, bytes, PROT_READ | PROT_WRITE); !opened)
        return os::fail_with(opened.error(), "cannot make the arena writable");
    if (const auto advised = os::madvise(address_, bytes, MADV_DONTFORK); !advised)
        return os::fail_with(advised.error(), "cannot keep the arena from being inherited over fork");
    return {};
}

std::uint64_t Presence::present_pages() const noexcept {
    std::uint64_t present = 0;
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + PageCount{1}) {
        const PageState state = words_.load(page).state();
        present += state == PageState::used || state == PageState::recycled || state == PageState::clearing ? 1 : 0;
    }
    return present;
}

void Presence::abandon_in_child() noexcept {
    file_->abandon_in_child();
    uffd_.reset();
}

bool Presence::claim(PageRange range, PageIndex& blocker) noexcept {
    for (PageIndex page = range.begin; page < range.end; page = page + PageCount{1}) {
        ArenaWord word = words_.load(page);
        for (;;) {
            if (word.state() == PageState::absent) {
                if (words_.try_change(page, word, my(PageState::populating))) break;
            } else if (word.state() == PageState::recycled) {
                if (words_.try_change(page, word, my(PageState::clearing))) break;
            } else if (word.moving() && recover(page, word)) {
                word = words_.load(page);
            } else {
                blocker = page;
                unclaim({range.begin, page});
                return false;
            }
        }
    }
    return geometry().watched || claim_unwatched(range, blocker);
}

// Without userfaultfd: absent pages that the host has touched since are found now, and are used.
bool Presence::claim_unwatched(PageRange claimed, PageIndex& blocker) noexcept {
    for (PageIndex begin = claimed.begin; begin < claimed.end;) {
        const PageCount count = std::min(claimed.end - begin, k_batch);
        std::array<unsigned char, k_batch.value()> has_memory{};
        // If they cannot be looked at, they are cleared like any page that has memory.
        (void)os::mincore(address_of(begin), harena::bytes_of(count), has_memory.data());
        for (std::uint64_t i = 0; i < count.value(); ++i) {
            const PageIndex page = begin + PageCount{i};
            if ((has_memory[i] & 1) == 0 || words_.load(page).state() != PageState::populating) continue;
            charge_touch(page);
            finish(PageRange::one(page), PageState::used);
            host_faults_.fetch_add(1, std::memory_order_relaxed);
            unclaim({claimed.begin, page});
            unclaim({page + PageCount{1}, claimed.end});
            blocker = page;
            return false;
        }
        begin = begin + count;
    }
    return true;
}

// For a page that the host's touch makes used, whether there is room in the account or not.
void Presence::charge_touch(PageIndex moving) noexcept {
    const bool paid = charges_.charge(options_.payer, PageCount{1});
    charges_.assign(PageRange::one(moving), paid ? options_.payer : PageCharges::Id{0});
}

// A page that this thread claimed, and that the host has touched: it has what the host wrote, or is about to.
void Presence::keep_touched(PageIndex page) noexcept {
    const PageRange page_range = PageRange::one(page);
    (void)zero_page(page);
    charge_touch(page);
    touched_.insert(page.value());
    finish(page_range, PageState::used);
}

void Presence::unclaim(PageRange claimed) noexcept {
    for (PageIndex page = claimed.begin; page < claimed.end; page = page + PageCount{1}) {
        ArenaWord word = my(PageState::populating);
        if (words_.load(page).state() == PageState::clearing)
            words_.store(page, my(PageState::recycled));
        else if (!words_.try_change(page, word, my(PageState::absent)))
            keep_touched(page);
    }
}

void Presence::unclaim_filled(PageRange claimed) noexcept {
    PageRange run{claimed.begin, claimed.begin};
    const auto end_run = [&](PageIndex next) {
        // What is not taken away is zeros: found and cleared once more when the page is next allocated.
        if (!run.empty()) (void)punch(run);
        finish(run, PageState::absent);
        run = {next, next};
    };
    for (PageIndex page = claimed.begin; page < claimed.end; page = page + PageCount{1}) {
        if (page == block_of(page).begin) end_run(page);
        ArenaWord word = my(PageState::populating);
        if (words_.load(page).state() != PageState::clearing && words_.try_change(page, word, my(PageState::freeing))) {
            run.end = page + PageCount{1};
            continue;
        }
        if (word.state() == PageState::touched)
            keep_touched(page);
        else
            words_.store(page, my(PageState::recycled));
        end_run(page + PageCount{1});
    }
    end_run(claimed.end);
}

bool Presence::drop_memory(PageRange claimed) noexcept {
    PageRange run{claimed.begin, claimed.begin};
    const auto end_run = [&](PageIndex next) {
        const bool emptied = run.empty() || punch(run);
        if (emptied) finish(run, PageState::populating);
        run = {next, next};
        return emptied;
    };
    for (PageIndex page = claimed.begin; page < claimed.end; page = page + PageCount{1}) {
        if (page == block_of(page).begin && !end_run(page)) return false;
        if (words_.load(page).state() == PageState::clearing)
            run.end = page + PageCount{1};
        else if (!end_run(page + PageCount{1}))
            return false;
    }
    return end_run(claimed.end);
}

void Presence::finish_free(PageRange populated) noexcept {
    for (PageIndex page = populated.begin; page < populated.end; page = page + PageCount{1}) {
        ArenaWord word = words_.load(page);
        if (word.state() == PageState::touched || !words_.try_change(page, word, my(PageState::recycled)))
            keep_touched(page);
    }
}

os::SysResult<PageCount> Presence::put_zeros(PageRange absent) noexcept {
    if (!geometry().watched) {
        const auto filled =
            os::madvise(address_of(absent.begin), harena::bytes_of(absent.count()), os::k_madv_populate_write);
        if (filled) return absent.count();
        return std::unexpected{filled.error()};
    }
    const auto done = [&] {
        if (!geometry().hugetlb)
            return os::uffd_zeropage(uffd_.get(), address_of(absent.begin), harena::bytes_of(absent.count()));
        const std::uint64_t unit = align_down(absent.begin.value(), k_huge_page_pages.value());
        return os::uffd_copy(uffd_.get(), address_of(PageIndex{unit}), zero_block(), k_huge_page_size);
    }();
    if (!done) return std::unexpected{done.error()};
    if (!geometry().hugetlb) return PageCount{*done / k_page_size};
    return std::min(absent.count(),
                    PageCount{k_huge_page_pages.value() - absent.begin.value() % k_huge_page_pages.value()});
}

os::SysResult<void> Presence::fill_small(PageRange absent, const std::atomic<bool>* cancel) noexcept {
    for (PageIndex page = absent.begin; page < absent.end;) {
        if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return os::sys_fail(ECANCELED);
        const PageCount batch = std::min(absent.end - page, cancel != nullptr ? k_batch : absent.count());
        const auto done = put_zeros(PageRange::of(page, batch));
        if (done) {
            page = page + *done;
        } else if (done.error().code == EEXIST) {
            // Memory that a touch in a narrow race left behind (docs/arena.md): it may hold anything.
            clear_warm_page(address_of(page));
            page = page + PageCount{1};
        } else if (done.error().code != EAGAIN) {
            return std::unexpected{done.error()};
        }
    }
    return {};
}

PageRange Presence::blocks_within(PageRange range) const noexcept {
    // Blocks by address; offsets in the file agree with it.
    const std::uint64_t shift = data_offset_ / k_page_size;
    const std::uint64_t begin = align_up(range.begin.value() + shift, k_huge_page_pages.value());
    const std::uint64_t end = align_down(range.end.value() + shift, k_huge_page_pages.value());
    if (begin >= end) return {range.begin, range.begin};
    return {PageIndex{begin - shift}, PageIndex{end - shift}};
}

PageRange Presence::block_of(PageIndex page) const noexcept {
    const std::uint64_t shift = data_offset_ / k_page_size;
    const std::uint64_t begin = align_down(page.value() + shift, k_huge_page_pages.value());
    return {PageIndex{begin > shift ? begin - shift : 0},
            PageIndex{std::min(begin + k_huge_page_pages.value() - shift, pages().value())}};
}

os::SysResult<void> Presence::fill(PageRange absent, const std::atomic<bool>* cancel) noexcept {
    if (!options_.huge_blocks || absent.count() < k_huge_page_pages) return fill_small(absent, cancel);
    const PageRange blocks = blocks_within(absent);
    if (blocks.empty() || !make_blocks(blocks, blocks.end < absent.end, cancel)) return fill_small(absent, cancel);
    if (const auto head = fill_small({absent.begin, blocks.begin}, cancel); !head) return head;
    return fill_small({blocks.end, absent.end}, cancel);
}

// Puts whole new blocks behind claimed pages that have no memory, an entry of 2 MiB each. The kernel does not do that
// to pages that userfaultfd watches, nor where it watches the page behind them: they are taken out of its sight for
// that time. Nobody's touch of the block is missed: it is claimed. The page behind is claimed, too, and becomes used if
// it has memory afterwards; with `next_is_claimed` it is the caller's already, to be filled. False: nothing has
// changed, or some of the memory is there.
bool Presence::make_blocks(PageRange blocks, bool next_is_claimed, const std::atomic<bool>* cancel) noexcept {
    if (!geometry().watched || geometry().hugetlb || shared()) return false;
    const bool has_next = blocks.end < PageIndex{} + pages();
    PageIndex blocker;
    const PageRange next = PageRange::of(blocks.end, PageCount{has_next ? 1U : 0U});
    if (has_next && !next_is_claimed && !claim(next, blocker)) return false;
    // Memory that a race left behind would be kept by the collapse.
    bool made = punch(blocks).has_value();
    std::byte* const begin = address_of(blocks.begin);
    const std::uint64_t bytes = harena::bytes_of(blocks.count() + next.count());
    if (made && os::uffd_unregister(uffd_.get(), begin, bytes)) {
        for (PageIndex block = blocks.begin; made && block < blocks.end; block = block + k_huge_page_pages) {
            // A block without any memory is not collapsed.
            made = (cancel == nullptr || !cancel->load(std::memory_order_relaxed)) &&
                   os::madvise(address_of(block), k_page_size, os::k_madv_populate_write).has_value() &&
                   os::madvise(address_of(block), k_huge_page_size, os::k_madv_collapse).has_value();
        }
        bool watched = false;
        for (int attempt = 0; !watched && attempt < k_register_attempts; ++attempt)
            watched = os::uffd_register_missing(uffd_.get(), begin, bytes).has_value();
        // Touches of these pages are not seen any more. At least none of them is absent now.
        if (!watched) unwatched_.fetch_add(bytes / k_page_size, std::memory_order_relaxed);
        if (!watched) (void)os::madvise(begin, bytes, os::k_madv_populate_write);
    } else {
        made = false;
    }
    if (has_next && !next_is_claimed) {
        unsigned char has_memory = 0;
        if (words_.load(blocks.end).state() != PageState::clearing &&
            (!os::mincore(address_of(blocks.end), k_page_size, &has_memory) || (has_memory & 1) != 0))
            keep_touched(blocks.end);
        else
            unclaim(next);
    }
    return made;
}

os::SysResult<void> Presence::populate(PageRange claimed, const std::atomic<bool>* cancel) noexcept {
    for (PageIndex page = claimed.begin; page < claimed.end;) {
        const auto has_memory = [this](PageIndex at) { return words_.load(at).state() == PageState::clearing; };
        const bool clears = has_memory(page);
        PageIndex end = page + PageCount{1};
        while (end < claimed.end && has_memory(end) == clears) end = end + PageCount{1};
        if (clears) {
            clear_cold_pages(address_of(page), harena::bytes_of(end - page));
        } else if (const auto filled = fill({page, end}, cancel); !filled) {
            return filled;
        }
        page = end;
    }
    return {};
}

os::SysResult<void> Presence::punch(PageRange freeing) noexcept {
    for (;;) {
        const auto punched = os::punch_hole(file_->fd(), offset_of(freeing.begin), harena::bytes_of(freeing.count()));
        if (punched || punched.error().code != EINTR) return punched;
    }
}

os::SysResult<void> Presence::collapse(PageRange blocks) noexcept {
    if (geometry().hugetlb) return {};  // they are
    for (PageIndex block = blocks.begin; block < blocks.end; block = block + k_huge_page_pages)
        if (const auto done = os::madvise(address_of(block), k_huge_page_size, os::k_madv_collapse); !done) return done;
    return {};
}

bool Presence::recover(PageIndex page, ArenaWord moving) noexcept {
    if (!moving.moving() || file_->slots().alive(moving.owner())) return false;
    // In his place first: two that recover a page at once must not both punch, since the second would do it to the
    // next owner's memory.
    const bool touched = moving.state() == PageState::touched;
    if (!words_.try_change(page, moving, my(touched ? PageState::touched : PageState::freeing))) return true;
    const PageRange one = PageRange::one(page);
    charges_.release(one);
    if (touched)
        keep_touched(page);
    else  // if the kernel does not take the memory back, the page stays in use, for somebody to free
        finish(one, punch(one) ? PageState::absent : PageState::used);
    recovered_.fetch_add(1, std::memory_order_relaxed);
    hints_stale_.store(true, std::memory_order_release);
    return true;
}

std::uint64_t Presence::recover_all() noexcept {
    std::uint64_t count = 0;
    for (PageIndex page{0}; page < PageIndex{} + pages(); page = page + PageCount{1})
        if (const ArenaWord word = words_.load(page); word.moving() && recover(page, word)) ++count;
    return count;
}

os::SysResult<bool> Presence::zero_page(PageIndex page) noexcept {
    for (;;) {
        const auto done = put_zeros(PageRange::one(page));
        if (done) return true;
        // ENOENT: it is not watched at the moment (`make_blocks`), so that the next touch of it gets memory.
        if (done.error().code == EEXIST || done.error().code == ENOENT) return false;
        if (done.error().code != EAGAIN) return std::unexpected{done.error()};
    }
}

bool Presence::look(PageIndex page) noexcept {
    ArenaWord word = words_.load(page);
    if (word.state() == PageState::used || word.state() == PageState::recycled) return true;
    if (word.state() != PageState::absent && word.state() != PageState::reserved) return false;
    unsigned char has_memory = 0;
    if (!os::mincore(address_of(page), k_page_size, &has_memory) || (has_memory & 1) == 0) return false;
    if (word.state() != PageState::absent) return true;
    // Not by a moving state: a free of the page at that moment would miss it.
    const bool paid = charges_.charge(options_.payer, PageCount{1});
    if (words_.try_change(page, word, my(PageState::used))) {
        touched_.insert(page.value());
        host_faults_.fetch_add(1, std::memory_order_relaxed);
        if (paid) charges_.assign_late(page, options_.payer, words_);
    } else if (paid) {
        charges_.uncharge(options_.payer, PageCount{1});
    }
    return true;
}

}  // namespace harena
