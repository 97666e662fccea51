// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/map_memory.hpp"

#include <sys/mman.h>

#include <utility>

#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena::kernel {

namespace {

// Newer than the headers of Debian 12. Source: Linux, include/uapi/asm-generic/mman-common.h.
#ifdef MAP_FIXED_NOREPLACE
constexpr int k_fixed_noreplace = MAP_FIXED_NOREPLACE;
#else
constexpr int k_fixed_noreplace = 0x100000;
#endif
constexpr int k_reservation = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

os::SysResult<std::byte*> reserve(std::uint64_t address, std::uint64_t bytes) noexcept {
    const int flags = k_reservation | (address != 0 ? k_fixed_noreplace : 0);
    const auto at = os::mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, flags, -1, 0);
    if (!at) return std::unexpected{at.error()};
    return static_cast<std::byte*>(*at);
}

os::SysResult<std::byte*> reserve_anywhere(std::uint64_t bytes) noexcept {
    const auto first = reserve(0, bytes);
    if (!first) return first;
    const auto begin = reinterpret_cast<std::uint64_t>(*first);
    if (begin >> 32 == (begin + bytes - 1) >> 32) return first;
    (void)os::munmap(*first, bytes);
    // Wherever it is, there is a multiple of 4 GiB in its first 4 GiB.
    const auto larger = reserve(0, bytes + 4 * k_gib);
    if (!larger) return larger;
    const std::uint64_t before =
        align_up(reinterpret_cast<std::uint64_t>(*larger), 4 * k_gib) - reinterpret_cast<std::uint64_t>(*larger);
    std::byte* const at = *larger + before;
    if (before != 0) (void)os::munmap(*larger, before);
    (void)os::munmap(at + bytes, 4 * k_gib - before);
    return at;
}

}  // namespace

Result<MapMemory> MapMemory::create(int map, std::uint64_t address, std::uint64_t bytes) {
    const auto reserved = address == 0 ? reserve_anywhere(bytes) : reserve(address, bytes);
    if (!reserved) return os::fail_with(reserved.error(), fmt::format("{} bytes at {:#x}", bytes, address));
    MapMemory memory{*reserved, bytes};
    HARENA_TRY(NotInherited not_inherited, NotInherited::of(memory.data_, bytes));
    memory.not_inherited_.emplace(std::move(not_inherited));
    const auto mapped = os::mmap(memory.data_, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, map, 0);
    if (!mapped) return os::fail_with(mapped.error(), fmt::format("{} bytes at {:#x}", bytes, address));
    HARENA_CHECK_OK(memory.not_inherited_->replaced());
    return memory;
}

MapMemory::MapMemory(MapMemory&& other) noexcept
    : data_{std::exchange(other.data_, nullptr)},
      bytes_{other.bytes_},
      not_inherited_{std::move(other.not_inherited_)} {}

MapMemory::~MapMemory() {
    if (data_ == nullptr) return;
    (void)os::mmap(data_, bytes_, PROT_NONE, k_reservation | MAP_FIXED, -1, 0);
    not_inherited_.reset();
    (void)os::munmap(data_, bytes_);
}

}  // namespace harena::kernel
