// SPDX-License-Identifier: Apache-2.0
#include "tests/torture/worker.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "harena/arena/nofault.hpp"
#include "harena/base/os/process.hpp"

namespace harena::torture {

namespace {

constexpr std::size_t k_words = k_page_size / sizeof(std::uint64_t);
constexpr std::size_t k_most_owned = 176;
constexpr std::size_t k_most_touched = 8;
constexpr std::uint64_t k_longest_range = 24;

std::string describe(Entry entry) {
    return fmt::format("thread {} of life {} (holding {})", entry.thread, entry.life,
                       static_cast<unsigned>(entry.holding));
}

}  // namespace

int first_difference(const std::uint64_t* words, std::uint64_t first) noexcept {
    for (std::size_t i = 0; i < k_words; ++i)
        if (words[i] != pattern_word(first, i)) return static_cast<int>(i);
    return -1;
}

// Not std::atomic::wait: that is for the threads of one process.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t value) noexcept {
    (void)::syscall(SYS_futex, &word, FUTEX_WAIT, value, nullptr, nullptr, 0);
}
void futex_wake(std::atomic<std::uint32_t>& word) noexcept {
    (void)::syscall(SYS_futex, &word, FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0);
}

Worker::Worker(ProcessArena& arena, SharedLog& log, std::size_t thread, std::uint16_t life, std::uint64_t seed,
               std::uint64_t granule, int park_fd)
    : arena_{arena},
      log_{log},
      mine_{log.threads[thread]},
      thread_{static_cast<std::uint8_t>(thread)},
      life_{life},
      granule_{granule},
      park_fd_{park_fd},
      random_{seed} {
    owned_.reserve(k_pages);
    touched_.reserve(k_most_touched);
}

template <typename Body>
auto Worker::timed(Call call, Body&& body) {
    struct Clock {
        ThreadLog& log;
        Call call;
        std::uint64_t begin = os::monotonic_ns();
        Clock(ThreadLog& its, Call which) : log{its}, call{which} {}
        Clock(const Clock&) = delete;
        Clock& operator=(const Clock&) = delete;
        ~Clock() {
            log.calls.fetch_add(1, std::memory_order_relaxed);
            const std::uint64_t took = os::monotonic_ns() - begin;
            if (took <= log.longest_ns.load(std::memory_order_relaxed)) return;
            log.longest_ns.store(took, std::memory_order_relaxed);
            log.longest_call.store(std::to_underlying(call), std::memory_order_relaxed);
        }
    };
    const Clock clock{mine_, call};
    return body();
}

void Worker::run() {
    for (;;) {
        park_if_asked();
        adopt_touched();
        one_operation();
    }
}

void Worker::park_if_asked() {
    if (log_.paused.load() == 0) return;
    if (::write(park_fd_, "!", 1) != 1) violation("the test is gone");
    while (log_.paused.load() != 0) futex_wait(log_.paused, 1);
}

void Worker::one_operation() {
    const std::uint64_t anywhere = random_.below(k_pages);
    const std::uint64_t count = 1 + random_.below(random_.one_in(4) ? k_longest_range : 4);
    const bool may_own_more = owned_.size() < k_most_owned;
    switch (random_.below(16)) {
        case 0:
        case 1:
        case 2:
            if (may_own_more) return allocate(1);
            return free_some();
        case 3:
            if (may_own_more) return allocate(count);
            return free_some();
        case 4:
        case 5:
            if (may_own_more) return allocate_at(anywhere, count);
            return free_some();
        case 6:
            if (may_own_more) return reserve(anywhere, count);
            return free_some();
        case 7:
            return touch(anywhere, true);
        case 8:
            return touch(anywhere, false);
        case 9:
            return touch_wildly(random_.below(k_wild_pages));
        case 10:
            return read_as_a_program(random_.one_in(2) || owned_.empty() ? anywhere
                                                                         : owned_[random_.below(owned_.size())]);
        case 11:
            if (random_.one_in(16)) look_around();
            return;
        default:
            return free_some();
    }
}

void Worker::allocate(std::uint64_t count) {
    begin(count);
    const auto pages = timed(Call::alloc, [&] { return arena_.alloc_pages(PageCount{count}); });
    if (pages)
        take(page_of(*pages), count, Holding::fresh);
    else if (pages.error().code() != ENOMEM)
        violation(fmt::format("alloc_pages({}): {}", count, pages.error().message()));
    end();
}

void Worker::allocate_at(std::uint64_t page, std::uint64_t count) {
    count = std::min(count, k_pages - page);
    begin(count);
    const auto pages =
        timed(Call::alloc_at, [&] { return arena_.alloc_pages(PageCount{count}, {.address = words_of(page)}); });
    if (pages)
        take(page, count, Holding::fresh);
    else if (pages.error().code() != EBUSY)
        violation(fmt::format("alloc_pages({} at page {}): {}", count, page, pages.error().message()));
    end();
}

void Worker::reserve(std::uint64_t page, std::uint64_t count) {
    count = std::min(count, k_pages - page);
    begin(count);
    const auto reserved = timed(Call::reserve, [&] { return arena_.reserve_pages(words_of(page), PageCount{count}); });
    if (reserved)
        take(page, count, Holding::reserved);
    else if (reserved.error().code() != EBUSY)
        violation(fmt::format("reserve_pages({} at page {}): {}", count, page, reserved.error().message()));
    end();
}

void Worker::take(std::uint64_t page, std::uint64_t count, Holding as) {
    for (std::uint64_t at = page; at < page + count; ++at)
        if (const Entry before = log_.board[at].exchange(me(as)); before.owned())
            violation(fmt::format("page {} was handed out though {} has it", at, describe(before)));
    const bool is_reserved = as == Holding::reserved;
    // The host's write to a reserved page gives it memory, and it stays reserved.
    const bool write = !is_reserved || random_.one_in(2);
    for (std::uint64_t at = page; at < page + count; ++at) {
        owned_.push_back(at);
        if (!write) continue;
        check_zero(at, is_reserved ? "reserved" : "allocated");
        fill(at);
    }
}

void Worker::fill(std::uint64_t page) {
    const Entry entry = log_.board[page].load();
    const std::uint64_t first = std::uint64_t{thread_} << 56 | std::uint64_t{life_} << 40 | ++sequence_;
    log_.pattern[page].store(first);
    timed(Call::write, [&] {
        volatile std::uint64_t* const words = words_of(page);
        for (std::size_t i = 0; i < k_words; ++i) words[i] = pattern_word(first, i);
    });
    log_.board[page].store(entry.as(entry.is_reserved() ? Holding::reserved_filled : Holding::filled));
}

void Worker::check_pattern(std::uint64_t page) {
    const std::uint64_t first = log_.pattern[page].load();
    const int at = timed(Call::write, [&] { return first_difference(words_of(page), first); });
    if (at >= 0)
        violation(fmt::format("page {}: word {} is {:#x}, not {:#x}", page, at, words_of(page)[at],
                              pattern_word(first, static_cast<std::size_t>(at))));
}

void Worker::check_zero(std::uint64_t page, std::string_view what) {
    const bool zero = timed(Call::write, [&] {
        const std::uint64_t* const words = words_of(page);
        return std::all_of(words, words + k_words, [](std::uint64_t word) { return word == 0; });
    });
    if (!zero) violation(fmt::format("page {}, just {}, is not zero: {:#x}", page, what, *words_of(page)));
}

void Worker::free_some() {
    if (owned_.empty()) return;
    const std::size_t chosen = random_.below(owned_.size());
    // A run of this thread's, in the order in which it got them.
    std::size_t stop = chosen + 1;
    while (stop < owned_.size() && owned_[stop] == owned_[stop - 1] + 1 && stop - chosen < k_longest_range) ++stop;
    if (random_.one_in(3)) stop = chosen + 1;
    const std::uint64_t page = owned_[chosen];
    const std::uint64_t count = stop - chosen;
    for (std::uint64_t at = page; at < page + count; ++at) {
        Entry entry = log_.board[at].load();
        if (!entry.owned() || entry != me(entry.holding))
            violation(fmt::format("page {} is thread {}'s, but {} has it", at, thread_, describe(entry)));
        if (entry.has_pattern()) check_pattern(at);
        if (!log_.board[at].compare_exchange_strong(entry, me(Holding::freeing)))
            violation(fmt::format("page {} was taken by {}", at, describe(entry)));
    }
    begin(0);
    if (random_.one_in(2)) {
        const auto freed = timed(Call::free, [&] { return arena_.free_pages(words_of(page), PageCount{count}); });
        if (!freed) violation(fmt::format("free_pages({} at page {}): {}", count, page, freed.error().message()));
    } else {
        timed(Call::free, [&] {
            arena_.kfunc_free_pages(reinterpret_cast<std::uint64_t>(words_of(page)), static_cast<std::uint32_t>(count));
        });
    }
    for (std::uint64_t at = page; at < page + count; ++at) {
        Entry entry = me(Holding::freeing);  // or the next owner's
        (void)log_.board[at].compare_exchange_strong(entry, Entry{});
    }
    end();
    owned_.erase(owned_.begin() + static_cast<std::ptrdiff_t>(chosen),
                 owned_.begin() + static_cast<std::ptrdiff_t>(stop));
}

void Worker::expect_stray(std::uint64_t page) {
    const std::uint64_t first = page / granule_ * granule_;
    for (std::uint64_t at = first; at < std::min(first + granule_, k_pages); ++at) ++log_.may_be_stray[at];
}

void Worker::touch(std::uint64_t page, bool plainly) {
    if (touched_.size() == k_most_touched) return;
    if (granule_ != 1) page %= k_wild_pages;
    Entry nobody;
    if (!log_.board[page].compare_exchange_strong(nobody, me(Holding::touching))) return;
    begin(0);
    // Who had allocated the page when it was claimed may free it before it is touched.
    expect_stray(page);
    if (plainly) timed(Call::touch, [&] { (void)*static_cast<volatile std::uint64_t*>(words_of(page)); });
    // A touch of a page that is free but kept is not seen (docs/arena.md); this is exact.
    const auto populated = timed(Call::populate, [&] { return arena_.populate(words_of(page), 1); });
    if (!populated) violation(fmt::format("populate(page {}): {}", page, populated.error().message()));
    Touched touched{.page = page, .steps = {}};
    for (std::size_t i = 0; i < k_threads; ++i) touched.steps[i] = log_.threads[i].step.load();
    touched.steps[thread_] = 0;
    touched_.push_back(touched);
    if (granule_ == 1 && log_.board[page].load() == me(Holding::touching)) --log_.may_be_stray[page];
    end();
}

void Worker::adopt_touched() {
    std::erase_if(touched_, [this](const Touched& touched) {
        for (std::size_t i = 0; i < k_threads; ++i)
            if (touched.steps[i] % 2 != 0 && log_.threads[i].step.load() == touched.steps[i]) return false;
        Entry entry = me(Holding::touching);
        if (log_.board[touched.page].compare_exchange_strong(entry, me(Holding::fresh))) {
            owned_.push_back(touched.page);
            check_zero(touched.page, "touched");
            fill(touched.page);
        }
        return true;
    });
}

void Worker::touch_wildly(std::uint64_t page) {
    begin(0);
    expect_stray(page);
    timed(Call::touch, [&] { (void)*static_cast<volatile std::uint64_t*>(words_of(page)); });
    end();
}

void Worker::read_as_a_program(std::uint64_t page) {
    const Entry entry = log_.board[page].load();
    const std::uint64_t first = log_.pattern[page].load();
    const auto access = timed(Call::load, [&] {
        return nofault::load(reinterpret_cast<std::uintptr_t>(words_of(page)), sizeof(std::uint64_t));
    });
    if (!entry.has_pattern() || entry != me(entry.holding)) return;
    if (access.faulted != 0 || access.value != first)
        violation(fmt::format("a program reads {:#x} in page {} (faulted: {}), not {:#x}", access.value, page,
                              access.faulted, first));
}

void Worker::look_around() {
    begin(0);
    bool well = true;
    switch (random_.below(4)) {
        case 0:
            well = timed(Call::look, [&] { return arena_.statistics(); }).has_value();
            break;
        case 1:
            well = timed(Call::look, [&] { return arena_.snapshot(); }).has_value();
            break;
        case 2:
            well = timed(Call::look, [&] { return arena_.recover(); }).has_value();
            break;
        default:
            well = timed(Call::tune, [&] {
                       return arena_.set_recycle(PageCount{random_.one_in(2) ? 0U : 512U});
                   }).has_value();
            break;
    }
    if (!well) violation("a call that only looks has failed");
    end();
}

void Worker::begin(std::uint64_t in_doubt) {
    mine_.in_doubt.store(in_doubt);
    mine_.step.fetch_add(1);
}

void Worker::end() {
    mine_.step.fetch_add(1);
    mine_.in_doubt.store(0);
}

std::uint64_t* Worker::words_of(std::uint64_t page) const {
    return reinterpret_cast<std::uint64_t*>(arena_.data() + page * k_page_size);
}

std::uint64_t Worker::page_of(const void* address) const {
    return static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - arena_.data()) / k_page_size;
}

void Worker::violation(const std::string& what) {
    if (log_.failed.exchange(1) == 0) {
        const std::string text = fmt::format("thread {} of life {}: {}", thread_, life_, what);
        std::strncpy(log_.failure.data(), text.c_str(), log_.failure.size() - 1);
        log_.failed.store(2);
    }
    ::_exit(3);
}

}  // namespace harena::torture
