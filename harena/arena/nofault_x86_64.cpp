// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/nofault.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <mutex>

#include "harena/base/assert.hpp"
#include "harena/exec/exception_table.hpp"

extern "C" {
using NoFaultUnary = harena::nofault::Access(std::uintptr_t address, std::uint64_t operand);
using NoFaultCompare = harena::nofault::Access(std::uintptr_t address, std::uint64_t expected, std::uint64_t desired);

extern const std::byte harena_nofault_begin;
extern const std::byte harena_nofault_end;
NoFaultUnary harena_nofault_load_1, harena_nofault_load_2, harena_nofault_load_4, harena_nofault_load_8;
NoFaultUnary harena_nofault_store_1, harena_nofault_store_2, harena_nofault_store_4, harena_nofault_store_8;
NoFaultUnary harena_nofault_add_4, harena_nofault_add_8, harena_nofault_or_4, harena_nofault_or_8;
NoFaultUnary harena_nofault_and_4, harena_nofault_and_8, harena_nofault_xor_4, harena_nofault_xor_8;
NoFaultUnary harena_nofault_fetch_add_4, harena_nofault_fetch_add_8, harena_nofault_fetch_or_4,
    harena_nofault_fetch_or_8;
NoFaultUnary harena_nofault_fetch_and_4, harena_nofault_fetch_and_8, harena_nofault_fetch_xor_4,
    harena_nofault_fetch_xor_8;
NoFaultUnary harena_nofault_exchange_4, harena_nofault_exchange_8;
NoFaultCompare harena_nofault_compare_exchange_4, harena_nofault_compare_exchange_8;
void harena_nofault_fixup();
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HARENA_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define HARENA_ADDRESS_SANITIZER 1
#endif
#if defined(HARENA_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace harena::nofault {

namespace {

// The address sanitizer does not see what the routines in assembler touch: show it to it. Arenas are never poisoned.
void check_address([[maybe_unused]] std::uintptr_t address, [[maybe_unused]] unsigned size) noexcept {
#if defined(HARENA_ADDRESS_SANITIZER)
    precondition(__asan_region_is_poisoned(reinterpret_cast<void*>(address), size) == nullptr,
                 "a no-fault access is outside the memory that its caller may touch");
#endif
}

constexpr std::array k_loads{&harena_nofault_load_1, &harena_nofault_load_2, &harena_nofault_load_4,
                             &harena_nofault_load_8};
constexpr std::array k_stores{&harena_nofault_store_1, &harena_nofault_store_2, &harena_nofault_store_4,
                              &harena_nofault_store_8};
// In the order of `Atomic`.
constexpr std::array k_atomics_4{&harena_nofault_add_4,       &harena_nofault_or_4,        &harena_nofault_and_4,
                                 &harena_nofault_xor_4,       &harena_nofault_fetch_add_4, &harena_nofault_fetch_or_4,
                                 &harena_nofault_fetch_and_4, &harena_nofault_fetch_xor_4, &harena_nofault_exchange_4};
constexpr std::array k_atomics_8{&harena_nofault_add_8,       &harena_nofault_or_8,        &harena_nofault_and_8,
                                 &harena_nofault_xor_8,       &harena_nofault_fetch_add_8, &harena_nofault_fetch_or_8,
                                 &harena_nofault_fetch_and_8, &harena_nofault_fetch_xor_8, &harena_nofault_exchange_8};

std::size_t size_index(unsigned size) noexcept {
    precondition(std::has_single_bit(size) && size <= 8, "an access is 1, 2, 4 or 8 bytes");
    return static_cast<std::size_t>(std::countr_zero(size));
}

}  // namespace

Result<void> register_text() {
    static std::mutex mutex;
    static bool registered = false;
    const std::lock_guard lock{mutex};
    if (registered) return {};
    const ExceptionRange range{.begin = reinterpret_cast<std::uintptr_t>(&harena_nofault_begin),
                               .end = reinterpret_cast<std::uintptr_t>(&harena_nofault_end),
                               .fixup = reinterpret_cast<std::uintptr_t>(&harena_nofault_fixup)};
    HARENA_CHECK_OK(ExceptionTable::instance().add(range));
    registered = true;
    return {};
}

Access load(std::uintptr_t address, unsigned size) noexcept {
    check_address(address, size);
    return k_loads[size_index(size)](address, 0);
}

Access store(std::uintptr_t address, unsigned size, std::uint64_t value) noexcept {
    check_address(address, size);
    return k_stores[size_index(size)](address, value);
}

Access atomic(Atomic operation, std::uintptr_t address, unsigned size, std::uint64_t operand) noexcept {
    precondition(size == 4 || size == 8, "a read-modify-write is of 4 or 8 bytes");
    check_address(address, size);
    const auto index = static_cast<std::size_t>(operation);
    return size == 4 ? k_atomics_4[index](address, operand) : k_atomics_8[index](address, operand);
}

Access compare_exchange(std::uintptr_t address, unsigned size, std::uint64_t expected, std::uint64_t desired) noexcept {
    precondition(size == 4 || size == 8, "a compare-exchange is of 4 or 8 bytes");
    check_address(address, size);
    return size == 4 ? harena_nofault_compare_exchange_4(address, expected, desired)
                     : harena_nofault_compare_exchange_8(address, expected, desired);
}

// Steps of 8 bytes while the shared side is aligned and there are as many, else of one byte.
bool copy_from(void* to, std::uintptr_t from, std::uint64_t bytes) noexcept {
    auto* out = static_cast<std::byte*>(to);
    std::uint64_t faulted = 0;
    while (bytes > 0) {
        const unsigned step = from % 8 == 0 && bytes >= 8 ? 8 : 1;
        const Access access = load(from, step);
        faulted |= access.faulted;
        std::memcpy(out, &access.value, step);
        out += step;
        from += step;
        bytes -= step;
    }
    return faulted == 0;
}

bool copy_to(std::uintptr_t to, const void* from, std::uint64_t bytes) noexcept {
    const auto* in = static_cast<const std::byte*>(from);
    std::uint64_t faulted = 0;
    while (bytes > 0) {
        const unsigned step = to % 8 == 0 && bytes >= 8 ? 8 : 1;
        std::uint64_t value = 0;
        std::memcpy(&value, in, step);
        faulted |= store(to, step, value).faulted;
        in += step;
        to += step;
        bytes -= step;
    }
    return faulted == 0;
}

}  // namespace harena::nofault
