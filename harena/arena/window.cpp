// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/window.hpp"

#include <sys/resource.h>

#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"

namespace harena {

namespace {

constexpr int k_reserve_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

std::unexpected<Error> fail_to_reserve(os::SysError error, std::string_view where) {
    const auto limit = os::getrlimit(RLIMIT_AS);
    if (limit && *limit != RLIM_INFINITY)
        return fail(error.code,
                    "cannot reserve 4 GiB of address space {}: the limit RLIMIT_AS is {} bytes; raise it (ulimit -v)",
                    where, *limit);
    if (error.code == EAGAIN)
        return fail(ENOMEM,
                    "cannot reserve 4 GiB of address space {}: mlockall(MCL_FUTURE) counts it as locked memory and "
                    "RLIMIT_MEMLOCK is too low for that",
                    where);
    if (error.code == ENOMEM)
        return fail(
            ENOMEM,
            "cannot reserve 4 GiB of address space {}: {}; there is no such gap, or the process has as many mappings "
            "as vm.max_map_count allows",
            where, os::describe(error));
    return fail(error.code, "cannot reserve 4 GiB of address space {}: {}", where, os::describe(error));
}

Result<std::byte*> reserve_at(std::uint64_t base) {
    const std::string where = fmt::format("at {:#x}", base);
    if (base < Window::k_bytes || base > (std::uint64_t{1} << 47) - 2 * Window::k_bytes)
        return fail(ENOMEM,
                    "cannot reserve 4 GiB of address space {}: only 0x100000000 to 0x7ffe00000000 can hold a window",
                    where);
    auto* const wanted = reinterpret_cast<std::byte*>(base - Window::k_guard_below);
    const auto span = os::mmap(wanted, Window::k_span_bytes, PROT_NONE, k_reserve_flags | MAP_FIXED_NOREPLACE, -1, 0);
    if (span && *span != wanted) {  // a kernel before 4.17 takes the address as a hint only
        (void)os::munmap(*span, Window::k_span_bytes);
    } else if (span) {
        return wanted + Window::k_guard_below;
    } else if (span.error().code != EEXIST) {
        return fail_to_reserve(span.error(), where);
    }
    const auto occupant = os::find_mapping(base - Window::k_guard_below, Window::k_span_bytes);
    return fail(
        EEXIST,
        "the arena's window {:#x}-{:#x} and its guards are taken by the mapping {}; choose another user_vm_start", base,
        base + Window::k_bytes, occupant.value_or("(of another thread, gone again)"));
}

// At random where a process has nothing by default, between the addresses that objects ask for (2^45, 2^46): a program,
// which knows its arena's address, is not to conclude from it where libraries and heap are.
[[maybe_unused]] Result<std::byte*> reserve_at_random() {
    constexpr std::uint64_t k_first = 0x2100'0000'0000;
    constexpr std::uint64_t k_windows = (0x3f00'0000'0000 - k_first) / Window::k_bytes;
    constexpr int k_tries = 8;
    for (int i = 0; i < k_tries; ++i) {
        const std::uint64_t base = k_first + os::random_u64() % k_windows * Window::k_bytes;
        auto* const wanted = reinterpret_cast<std::byte*>(base - Window::k_guard_below);
        const auto span =
            os::mmap(wanted, Window::k_span_bytes, PROT_NONE, k_reserve_flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (span && *span == wanted) return wanted + Window::k_guard_below;
        if (span) (void)os::munmap(*span, Window::k_span_bytes);
        if (!span && span.error().code != EEXIST) return fail_to_reserve(span.error(), "anywhere");
    }
    return fail(EEXIST, "no luck");
}

// Where the kernel likes: reserves enough to find an aligned window in it, and gives the rest back.
Result<std::byte*> reserve_anywhere() {
#if !defined(__SANITIZE_THREAD__)  // which takes all but a few address ranges for itself
    if (auto random = reserve_at_random(); random || random.error().code() != EEXIST) return random;
#endif
    constexpr std::uint64_t k_search = Window::k_span_bytes + Window::k_bytes;
    const auto area = os::mmap(nullptr, k_search, PROT_NONE, k_reserve_flags, -1, 0);
    if (!area) return fail_to_reserve(area.error(), "anywhere");
    const auto begin = reinterpret_cast<std::uint64_t>(*area);
    const std::uint64_t base = align_up(begin + Window::k_guard_below, Window::k_bytes);
    const std::uint64_t span_begin = base - Window::k_guard_below;
    const std::uint64_t span_end = base + Window::k_bytes + Window::k_guard_above;
    if (span_begin > begin) (void)os::munmap(*area, span_begin - begin);
    if (span_end < begin + k_search) (void)os::munmap(reinterpret_cast<void*>(span_end), begin + k_search - span_end);
    return reinterpret_cast<std::byte*>(base);
}

}  // namespace

Result<Window> Window::reserve(std::optional<std::uint64_t> base) {
    HARENA_TRY(std::byte* const reserved, base ? reserve_at(*base) : reserve_anywhere());
    return Window{reserved};
}

Window::~Window() {
    if (base_ != nullptr) (void)os::munmap(span_begin(), k_span_bytes);
}

}  // namespace harena
