// SPDX-License-Identifier: Apache-2.0
// alloc_pages, free_pages and reserve_pages with good arguments and every bad one.
#include <cerrno>
#include <csetjmp>
#include <csignal>

#include "tests/differential/build_case.hpp"

namespace harena::bpf::differential {

namespace {

using namespace test;

/// A row of calls whose results go to the context, word by word.
class Row {
public:
    explicit Row(std::string name, const ArenaPlace& place = {}) : name_{std::move(name)}, place_{place} {}

    Row& allocates(std::uint64_t address, std::uint64_t count, std::uint64_t node = ~0ULL, std::uint64_t flags = 0) {
        return then(alloc(address, count, node, flags), true);
    }
    Row& frees(std::uint64_t address, std::uint64_t count) { return then(free(address, count), false); }
    Row& reserves(std::uint64_t address, std::uint64_t count) { return then(reserve(address, count), true); }
    /// Writes into page `page`, whether it is there or not.
    Row& marks(std::uint64_t page, std::int32_t value) {
        return then(join({imm64(r1, place_.address + page * k_page_size), to_program(r1, r1),
                          store(Size::dw, r1, 8, value)}),
                    false);
    }
    Row& reads(std::uint64_t page) {
        return then(join({imm64(r1, place_.address + page * k_page_size), to_program(r1, r1),
                          load(Size::dw, r0, r1, 8)}),
                    true);
    }
    [[nodiscard]] Case made() const { return make_case(name_, builder(place_), body_); }
    [[nodiscard]] std::uint64_t page(std::uint64_t number) const { return place_.address + number * k_page_size; }

private:
    Row& then(const Code& code, bool has_result) {
        body_.insert(body_.end(), code.begin(), code.end());
        if (has_result) body_.push_back(to_context(word_++, r0));
        return *this;
    }

    std::string name_;
    ArenaPlace place_;
    Code body_;
    std::size_t word_ = 0;
};

constexpr std::uint64_t k_low_bits = 0x1234'5000;
constexpr std::uint64_t k_garbage = 0xabcd'ef01'0000'0000;

void add_alloc(std::vector<Case>& cases, const ArenaPlace& place, const std::string& where) {
    const auto row = [&](const char* name) { return Row{fmt::format("alloc: {}, {}", name, where), place}; };
    const std::uint64_t start = place.address;
    const auto page = [&](std::uint64_t n) { return start + n * k_page_size; };
    const auto low = [&](std::uint64_t n) { return page(n) & 0xffff'ffff; };
    cases.push_back(row("one page anywhere").allocates(0, 1).made());
    cases.push_back(row("all pages, then one more").allocates(0, 16).allocates(0, 1).made());
    cases.push_back(row("more than there are").allocates(0, 17).allocates(0, 0xffffffff).allocates(0, 0x100000).made());
    cases.push_back(row("no pages").allocates(0, 0).allocates(page(3), 0).made());
    cases.push_back(row("high bits of the count").allocates(0, 0x1'0000'0002).allocates(0, 0x1'0000'0000).made());
    cases.push_back(row("flags").allocates(0, 1, ~0ULL, 1).allocates(0, 1, ~0ULL, 1ULL << 32).made());
    cases.push_back(row("nodes")
                        .allocates(0, 1, 0)
                        .allocates(0, 1, 1)
                        .allocates(0, 1, 1023)
                        .allocates(0, 1, 1024)
                        .allocates(0, 1, static_cast<std::uint64_t>(-2))
                        .allocates(0, 1, 0xffffffff)
                        .made());
    cases.push_back(row("at an address")
                        .allocates(page(3), 2)
                        .allocates(page(3), 1)
                        .allocates(page(4), 2)
                        .allocates(page(5), 1)
                        .made());
    cases.push_back(row("at a program's address").allocates(low(5), 1).allocates(low(6) | k_garbage, 1).made());
    cases.push_back(
        row("unaligned").allocates(page(3) + 1, 1).allocates(page(3) + 8, 1).allocates(page(3) + 4095, 1).made());
    cases.push_back(row("at the end").allocates(page(15), 1).allocates(page(15), 2).allocates(page(16), 1).made());
    cases.push_back(row("over the end").allocates(page(14), 3).allocates(page(16), 1).allocates(page(1000), 1).made());
    cases.push_back(row("below")
                        .allocates(start - k_page_size, 1)
                        .allocates(start - k_page_size, 2)
                        .allocates(k_page_size, 1)
                        .made());
    cases.push_back(row("NULL with garbage").allocates(k_garbage, 1).allocates(k_garbage, 1).made());
    cases.push_back(row("the first page").allocates(start, 1).allocates(start, 1).made());
    // Gaps of 1, 2, 4 and 6 pages.
    const auto with_gaps = [&](const char* name) {
        return row(name).allocates(page(1), 1).allocates(page(4), 1).allocates(page(9), 1);
    };
    cases.push_back(
        with_gaps("best fit, small first").allocates(0, 1).allocates(0, 2).allocates(0, 4).allocates(0, 6).made());
    cases.push_back(with_gaps("best fit, large first").allocates(0, 5).allocates(0, 3).allocates(0, 2).made());
    cases.push_back(with_gaps("best fit, none").allocates(0, 7).allocates(0, 6).allocates(0, 5).made());
    cases.push_back(
        with_gaps("best fit after a free").frees(page(4), 1).allocates(0, 6).allocates(0, 7).allocates(0, 1).made());
    cases.push_back(row("ties")
                        .allocates(page(2), 1)
                        .allocates(page(5), 1)
                        .allocates(page(8), 8)
                        .allocates(0, 1)
                        .allocates(0, 2)
                        .allocates(0, 2)
                        .made());
    cases.push_back(row("marks stay")
                        .allocates(page(1), 2)
                        .marks(1, 11)
                        .marks(2, 22)
                        .marks(3, 33)
                        .reads(1)
                        .reads(2)
                        .reads(3)
                        .made());
}

void add_free(std::vector<Case>& cases, const ArenaPlace& place, const std::string& where) {
    const auto row = [&](const char* name) { return Row{fmt::format("free: {}, {}", name, where), place}; };
    const std::uint64_t start = place.address;
    const auto page = [&](std::uint64_t n) { return start + n * k_page_size; };
    const auto low = [&](std::uint64_t n) { return page(n) & 0xffff'ffff; };
    const auto full = [&](const char* name) { return row(name).allocates(start, 16).marks(3, 3).marks(15, 15); };
    cases.push_back(full("one").frees(page(3), 1).reads(3).reads(4).allocates(0, 1).reads(3).made());
    cases.push_back(full("all").frees(start, 16).allocates(0, 16).reads(3).made());
    cases.push_back(full("none").frees(page(3), 0).frees(page(3), 0x1'0000'0000).allocates(0, 1).made());
    cases.push_back(full("NULL").frees(0, 1).frees(0, 16).allocates(0, 1).made());
    cases.push_back(full("NULL with garbage").frees(k_garbage, 1).allocates(0, 1).made());
    cases.push_back(
        full("unaligned").frees(page(3) + 1, 1).allocates(0, 1).frees(page(5) + 4095, 1).allocates(0, 1).made());
    cases.push_back(full("over the end").frees(page(14), 10).allocates(0, 2).allocates(0, 1).made());
    cases.push_back(full("from the end").frees(page(16), 1).frees(page(17), 5).allocates(0, 1).made());
    cases.push_back(full("below").frees(start - k_page_size, 1).frees(start - k_page_size, 3).allocates(0, 1).made());
    cases.push_back(full("very many").frees(page(2), 0xffffffff).allocates(0, 14).allocates(0, 1).made());
    cases.push_back(
        full("program's address").frees(low(3), 1).allocates(0, 1).frees(low(7) | k_garbage, 1).allocates(0, 1).made());
    cases.push_back(row("absent").frees(page(3), 1).allocates(page(3), 1).made());
    cases.push_back(row("absent and present")
                        .allocates(page(3), 1)
                        .allocates(page(6), 1)
                        .frees(page(2), 6)
                        .allocates(0, 16)
                        .made());
    cases.push_back(full("twice").frees(page(3), 1).frees(page(3), 1).allocates(0, 1).allocates(0, 1).made());
    cases.push_back(full("reads zero again").frees(page(3), 1).allocates(page(3), 1).reads(3).made());
    cases.push_back(full("then a write").frees(page(3), 1).marks(3, 4).reads(3).allocates(page(3), 1).reads(3).made());
    cases.push_back(
        row("reserved").reserves(page(3), 2).frees(page(3), 1).allocates(page(3), 1).allocates(page(4), 1).made());
}

void add_reserve(std::vector<Case>& cases, const ArenaPlace& place, const std::string& where) {
    const auto row = [&](const char* name) { return Row{fmt::format("reserve: {}, {}", name, where), place}; };
    const std::uint64_t start = place.address;
    const auto page = [&](std::uint64_t n) { return start + n * k_page_size; };
    const auto low = [&](std::uint64_t n) { return page(n) & 0xffff'ffff; };
    cases.push_back(
        row("some").reserves(page(3), 2).allocates(page(3), 1).allocates(page(4), 1).allocates(page(5), 1).made());
    cases.push_back(row("all").reserves(start, 16).allocates(0, 1).frees(page(2), 1).allocates(0, 1).made());
    cases.push_back(row("none")
                        .reserves(page(3), 0)
                        .reserves(0, 0)
                        .reserves(page(99), 0)
                        .reserves(page(3) + 1, 0)
                        .reserves(page(3), 0x1'0000'0000)
                        .allocates(page(3), 1)
                        .made());
    cases.push_back(row("twice")
                        .reserves(page(3), 2)
                        .reserves(page(3), 2)
                        .reserves(page(4), 1)
                        .reserves(page(2), 2)
                        .reserves(page(5), 1)
                        .made());
    cases.push_back(
        row("in use").allocates(page(3), 1).reserves(page(3), 1).reserves(page(2), 3).reserves(page(2), 1).made());
    cases.push_back(row("unaligned").reserves(page(3) + 1, 1).reserves(page(3) + 4095, 1).allocates(page(3), 1).made());
    cases.push_back(row("past the end")
                        .reserves(page(15), 2)
                        .reserves(page(16), 1)
                        .reserves(page(100), 1)
                        .reserves(page(0), 17)
                        .reserves(page(15), 1)
                        .reserves(page(3), 0xffffffff)
                        .made());
    cases.push_back(
        row("below").reserves(start - k_page_size, 1).reserves(start - k_page_size, 3).allocates(start, 1).made());
    cases.push_back(row("NULL").reserves(0, 1).allocates(start, 1).allocates(0, 16).made());
    cases.push_back(row("NULL with garbage").reserves(k_garbage, 1).allocates(start, 1).made());
    cases.push_back(row("program's address")
                        .reserves(low(3), 1)
                        .reserves(low(4) | k_garbage, 1)
                        .allocates(page(3), 1)
                        .allocates(page(4), 1)
                        .made());
    cases.push_back(row("faults").reserves(page(3), 1).marks(3, 3).reads(3).made());
}

sigjmp_buf after_signal;

void jump_back(int) { ::siglongjmp(after_signal, 1); }

/// Whether the host's touch of `at` is SIGSEGV.
bool is_refused(std::byte* at) {
    struct sigaction jumping{};
    struct sigaction before{};
    jumping.sa_handler = &jump_back;
    ::sigemptyset(&jumping.sa_mask);
    ::sigaction(SIGSEGV, &jumping, &before);
    volatile bool refused = true;
    if (sigsetjmp(after_signal, 1) == 0) {
        *static_cast<volatile std::byte*>(at) = std::byte{1};
        refused = false;
    }
    ::sigaction(SIGSEGV, &before, nullptr);
    return refused;
}

/// With SEGV_ON_FAULT the host reaches allocated pages only.
Case touches_with_segv_on_fault(const ArenaPlace& place) {
    const auto page = [&](std::uint64_t n) { return place.address + n * k_page_size; };
    Case one = Row{"", place}.reads(5).reads(6).allocates(page(6), 1).marks(6, 3).reads(6).made();
    one.prepare = [](const ObjectFile&, LoadedObject& loaded) -> Result<void> {
        std::byte* const begin = loaded.arena->data();
        HARENA_CHECK_OK(loaded.arena->alloc_pages(PageCount{1}, {.address = begin + 5 * k_page_size}));
        HARENA_CHECK_OK(loaded.arena->reserve_pages(begin + 7 * k_page_size, PageCount{1}));
        if (is_refused(begin + 5 * k_page_size)) return fail(EFAULT, "a touch of an allocated page is SIGSEGV");
        for (const std::uint64_t absent : {0U, 4U, 6U, 7U, 15U})
            if (!is_refused(begin + absent * k_page_size))
                return fail(EIO, "a touch of page {}, which is absent, is not SIGSEGV", absent);
        return {};
    };
    return one;
}

// The host's touches between loading and running, of pages that are absent, and their part in what programs then get.
void add_host(std::vector<Case>& cases, const ArenaPlace& place, const std::string& where) {
    const auto touching = [&](const char* name, const Row& row, std::vector<std::uint64_t> pages) {
        Case one = row.made();
        one.name = fmt::format("host: {}, {}", name, where);
        one.prepare = [pages = std::move(pages)](const ObjectFile&, LoadedObject& loaded) -> Result<void> {
            for (const std::uint64_t page : pages)
                *static_cast<volatile std::uint64_t*>(
                    static_cast<void*>(loaded.arena->data() + page * k_page_size + 8)) = page;
            return {};
        };
        cases.push_back(std::move(one));
    };
    const auto page = [&](std::uint64_t n) { return place.address + n * k_page_size; };
    const Row row{"", place};
    touching("touches are allocations",
             Row{row}.reads(5).allocates(page(5), 1).allocates(page(4), 3).reserves(page(5), 1), {5});
    touching("touched pages are freed", Row{row}.frees(page(5), 1).reads(5).allocates(page(5), 1).reads(5), {5, 6});
    touching("a full arena", Row{row}.allocates(0, 1).frees(page(3), 2).allocates(0, 2).reads(3).reads(5),
             {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    Case reserved = Row{row}
                        .reads(5)
                        .allocates(page(5), 1)
                        .reserves(page(5), 1)
                        .frees(page(5), 1)
                        .allocates(page(5), 1)
                        .reads(5)
                        .made();
    reserved.name = fmt::format("host: touches a reserved page, {}", where);
    reserved.prepare = [](const ObjectFile&, LoadedObject& loaded) -> Result<void> {
        HARENA_CHECK_OK(loaded.arena->reserve_pages(loaded.arena->data() + 5 * k_page_size, PageCount{1}));
        *static_cast<volatile std::uint64_t*>(static_cast<void*>(loaded.arena->data() + 5 * k_page_size + 8)) = 55;
        return {};
    };
    cases.push_back(std::move(reserved));
    Case populated = Row{row}.reads(5).reads(6).allocates(page(5), 1).allocates(page(7), 1).made();
    populated.name = fmt::format("host: populates, {}", where);
    populated.prepare = [](const ObjectFile&, LoadedObject& loaded) {
        return loaded.arena->populate(loaded.arena->data() + 5 * k_page_size + 100, k_page_size);
    };
    cases.push_back(std::move(populated));
}

}  // namespace

std::vector<Case> call_cases() {
    std::vector<Case> cases;
    for (const auto& [address, where] :
         {std::pair{arena_address(), std::string{"aligned"}},
          std::pair{arena_address() + k_low_bits, std::string{"low bits"}},
          std::pair{arena_address() + 4 * k_gib - 16 * k_page_size, std::string{"window's end"}}}) {
        const ArenaPlace place{.address = address};
        add_alloc(cases, place, where);
        add_free(cases, place, where);
        add_reserve(cases, place, where);
        add_host(cases, place, where);
    }
    for (const auto& [flags, where] : {std::pair{k_flag_segv_on_fault, std::string{"SEGV_ON_FAULT"}},
                                       std::pair{k_flag_no_user_conv, std::string{"NO_USER_CONV"}}}) {
        const ArenaPlace place{.flags = k_flag_mmapable | flags};
        add_alloc(cases, place, where);
        add_free(cases, place, where);
        add_reserve(cases, place, where);
        if (flags == k_flag_no_user_conv) add_host(cases, place, where);
    }
    Case touches = touches_with_segv_on_fault({.flags = k_flag_mmapable | k_flag_segv_on_fault});
    touches.name = "host: touches with SEGV_ON_FAULT";
    cases.push_back(std::move(touches));
    return cases;
}

}  // namespace harena::bpf::differential
