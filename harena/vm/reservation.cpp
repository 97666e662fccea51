// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/reservation.hpp"

#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <string>

#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"

namespace harena::reservation {

namespace {

constexpr int k_reservation = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
// Below are null pointers and what the kernel keeps away (vm.mmap_min_addr).
constexpr std::uint64_t k_begin_of_addresses = 64 * k_kib;

std::string text_of(std::uint64_t bytes) {
    return bytes % k_gib == 0 ? fmt::format("{} GiB", bytes / k_gib) : fmt::format("{} bytes", bytes);
}

std::uint64_t span_bytes(const Shape& shape) noexcept { return shape.guard_below + shape.bytes + shape.guard_above; }

/// The window at `base`, or why it cannot be there: EEXIST if something else is.
os::SysResult<std::byte*> try_reserve(std::uint64_t base, const Shape& shape) noexcept {
    auto* const wanted = reinterpret_cast<std::byte*>(base - shape.guard_below);
    const auto span = os::mmap(wanted, span_bytes(shape), PROT_NONE, k_reservation | MAP_FIXED_NOREPLACE, -1, 0);
    if (!span) return std::unexpected{span.error()};
    if (*span == wanted) return wanted + shape.guard_below;
    (void)os::munmap(*span, span_bytes(shape));  // a kernel before 4.17 takes the address as a hint only
    return os::sys_fail(EEXIST);
}

// At random where a process has nothing by default, between the addresses that objects ask for (2^45, 2^46): a program,
// which knows its arena's address, is not to conclude from it where libraries and heap are.
[[maybe_unused]] Result<std::byte*> reserve_at_random(const Shape& shape) {
    constexpr std::uint64_t k_first = 0x2100'0000'0000;
    constexpr std::uint64_t k_end = 0x3f00'0000'0000;
    constexpr int k_tries = 8;
    const std::uint64_t first = align_up(k_first, shape.alignment);
    if (first >= k_end || span_bytes(shape) > k_end - first) return fail(EEXIST, "too large for that");
    const std::uint64_t places = (k_end - first - shape.bytes) / shape.alignment + 1;
    for (int i = 0; i < k_tries; ++i) {
        const auto reserved = try_reserve(first + os::random_u64() % places * shape.alignment, shape);
        if (reserved) return *reserved;
        if (reserved.error().code != EEXIST) return fail_to_reserve(reserved.error(), shape.bytes, "anywhere");
    }
    return fail(EEXIST, "no luck");
}

}  // namespace

std::unexpected<Error> fail_to_reserve(os::SysError error, std::uint64_t bytes, std::string_view where) {
    const std::string what = fmt::format("cannot reserve {} of address space {}", text_of(bytes), where);
    const auto limit = os::getrlimit(RLIMIT_AS);
    if (limit && *limit != RLIM_INFINITY)
        return fail(error.code, "{}: the limit RLIMIT_AS is {} bytes; raise it (ulimit -v)", what, *limit);
    if (error.code == EAGAIN)
        return fail(ENOMEM,
                    "{}: mlockall(MCL_FUTURE) counts it as locked memory and RLIMIT_MEMLOCK is too low for that", what);
    if (error.code == ENOMEM)
        return fail(ENOMEM,
                    "{}: {}; there is no such gap, or the process has as many mappings as vm.max_map_count allows",
                    what, os::describe(error));
    return fail(error.code, "{}: {}", what, os::describe(error));
}

Result<std::byte*> reserve_at(std::uint64_t base, const Shape& shape) {
    const std::string where = fmt::format("at {:#x}", base);
    const std::uint64_t lowest = align_up(shape.guard_below + k_begin_of_addresses, shape.alignment);
    const std::uint64_t highest =
        align_down(k_end_of_addresses - shape.bytes - shape.guard_above - k_page_size, shape.alignment);
    if (base < lowest || base > highest)
        return fail(ENOMEM, "cannot reserve {} of address space {}: only {:#x} to {:#x} can hold a window",
                    text_of(shape.bytes), where, lowest, highest);
    const auto reserved = try_reserve(base, shape);
    if (reserved) return *reserved;
    if (reserved.error().code != EEXIST) return fail_to_reserve(reserved.error(), shape.bytes, where);
    const auto occupant = os::find_mapping(base - shape.guard_below, span_bytes(shape));
    return fail(EEXIST, "the window {:#x}-{:#x} and its guards are taken by the mapping {}", base, base + shape.bytes,
                occupant.value_or("(of another thread, gone again)"));
}

// Where the kernel likes: reserves enough to find an aligned window in it, and gives the rest back.
Result<std::byte*> reserve_anywhere(const Shape& shape) {
#if !defined(__SANITIZE_THREAD__)  // which takes all but a few address ranges for itself
    if (auto random = reserve_at_random(shape); random || random.error().code() != EEXIST) return random;
#endif
    const std::uint64_t search = span_bytes(shape) + shape.alignment;
    const auto found = os::mmap(nullptr, search, PROT_NONE, k_reservation, -1, 0);
    if (!found) return fail_to_reserve(found.error(), shape.bytes, "anywhere");
    const auto begin = reinterpret_cast<std::uint64_t>(*found);
    const std::uint64_t base = align_up(begin + shape.guard_below, shape.alignment);
    const std::uint64_t span_begin = base - shape.guard_below;
    const std::uint64_t span_end = span_begin + span_bytes(shape);
    if (span_begin > begin) (void)os::munmap(*found, span_begin - begin);
    if (span_end < begin + search) (void)os::munmap(reinterpret_cast<void*>(span_end), begin + search - span_end);
    return reinterpret_cast<std::byte*>(base);
}

}  // namespace harena::reservation
