// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/area_file.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "harena/base/os/inspect.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/vm/area_table.hpp"
#include "harena/vm/reservation.hpp"

namespace harena::tool {

namespace {

using Entry = AreaTable::Entry;

constexpr std::size_t k_entries_at_once = 256;

/// The number of bytes read, fewer only at the end of the file.
os::SysResult<std::size_t> read_at(int fd, void* to, std::size_t bytes, std::uint64_t offset) {
    std::size_t done = 0;
    while (done < bytes) {
        const auto got = os::pread(fd, static_cast<std::byte*>(to) + done, bytes - done, offset + done);
        if (!got && got.error().code == EINTR) continue;
        if (!got) return std::unexpected{got.error()};
        if (*got == 0) break;
        done += *got;
    }
    return done;
}

/// [begin, begin + bytes) is whole pages of a process's addresses, and not nothing.
bool is_range(std::uint64_t begin, std::uint64_t bytes) noexcept {
    constexpr std::uint64_t k_end = reservation::k_end_of_addresses;
    return is_aligned(begin | bytes, k_page_size) && begin != 0 && bytes != 0 && begin < k_end &&
           bytes <= k_end - begin;
}

/// Whether there can be such an area in the space.
bool is_plausible(const AreaRecord& record, const AreaFile& space) noexcept {
    if (record.state != AreaState::live && record.state != AreaState::unpurged) return false;
    if (record.kind > VmKind::backed || record.user > 1 || record.exec > 1) return false;
    if (!is_range(record.begin, record.bytes)) return false;
    if (record.guard_below >= record.begin || record.guard_bytes > reservation::k_end_of_addresses) return false;
    const std::uint64_t begin = record.begin - record.guard_below;
    const std::uint64_t bytes = record.guard_below + record.bytes + record.guard_bytes;
    if (!is_range(begin, bytes)) return false;
    const bool inside = begin >= space.base && begin + bytes <= space.base + space.bytes;
    const bool outside = begin + bytes <= space.base || begin >= space.base + space.bytes;
    return record.kind == VmKind::backed ? inside || outside : inside;
}

}  // namespace

Result<AreaFile> read_area_file(int fd, AreaBudget& budget) {
    const auto facts = os::facts_of(fd);
    if (!facts) return os::fail_with(facts.error(), "the file of its areas cannot be looked at");
    const std::uint64_t capacity = std::min<std::uint64_t>(AreaTable::capacity_of(facts->bytes), AreaTable::k_capacity);
    alignas(AreaTable::Header) AreaTable::Header header{};
    const auto got = read_at(fd, &header, sizeof header, 0);
    if (!got) return os::fail_with(got.error(), "the file of its areas cannot be read");
    const std::uint64_t used = header.used.load();
    if (!facts->regular || *got != sizeof header || header.magic != AreaTable::k_magic || used > capacity)
        return fail(EINVAL, "not a file of areas of this version of harena");
    if (!is_range(header.base, header.bytes)) return fail(EINVAL, "a file of areas of no possible space");

    AreaFile file{.base = header.base, .bytes = header.bytes, .areas = {}};
    const auto first = std::make_unique<Entry[]>(k_entries_at_once);
    const auto second = std::make_unique<Entry[]>(k_entries_at_once);
    for (std::uint64_t number = 1; number <= used; number += k_entries_at_once) {
        const std::uint64_t count = std::min<std::uint64_t>(k_entries_at_once, used + 1 - number);
        if (budget.entries < count || budget.areas == 0) {
            file.left_out += used + 1 - number;
            break;
        }
        budget.entries -= count;
        // Twice: an entry whose version has not changed in between was not being written in the first.
        for (Entry* const entries : {first.get(), second.get()}) {
            const auto read = read_at(fd, static_cast<void*>(entries), count * sizeof(Entry), number * sizeof(Entry));
            if (!read) return os::fail_with(read.error(), "the file of its areas cannot be read");
            if (*read != count * sizeof(Entry)) return fail(EINVAL, "the file of its areas is cut off");
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            const auto record = first[i].record.try_load();
            const auto again = second[i].record.try_load();
            if (!record || !again || first[i].record.version() != second[i].record.version()) continue;  // it changes
            if (record->state == AreaState::none) continue;
            if (!is_plausible(*record, file)) {
                ++file.damaged;
                continue;
            }
            if (budget.areas == 0) {
                ++file.left_out;
                continue;
            }
            --budget.areas;
            const std::uint64_t pages = std::min(first[i].pages.load(), record->bytes / k_page_size);
            file.areas.push_back(AreaTable::info_of(*record, first[i].origin.try_load().value_or(AreaOrigin{}), pages));
        }
    }
    return file;
}

}  // namespace harena::tool
