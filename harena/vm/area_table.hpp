// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <source_location>
#include <string_view>
#include <vector>

#include "harena/base/not_inherited.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/base/seq_locked.hpp"
#include "harena/vm/vm_area.hpp"

namespace harena {

enum class AreaState : std::uint32_t { none, live, unpurged };

/// What is read of an area without a lock.
struct AreaRecord {
    std::uint64_t begin = 0;
    std::uint64_t bytes = 0;
    std::uint64_t guard_bytes = 0;  // after them
    std::uint64_t guard_below = 0;  // before them: windows
    std::uint64_t file_offset = 0;
    AreaState state = AreaState::none;
    VmKind kind = VmKind::alloc;
    std::uint8_t user = 0;
    std::uint8_t exec = 0;
    std::uint8_t unused = 0;
};
static_assert(sizeof(AreaRecord) == 48);

/// What is read of it for people. Text is cut to fit, and ends with a zero byte.
struct AreaOrigin {
    std::array<char, 64> name{};
    std::array<char, 96> file{};
    std::uint64_t line = 0;
};

/// The areas of a space, by their numbers, in a file of their own that is named `harena:areas`: tools read it through
/// /proc/PID/fd. Whoever reads it checks what it reads: the process may be hostile, or end at any instruction.
///
/// Numbers are from 1 on; one that was given back is used again. Readers need no lock; writers take turns, which the
/// caller sees to.
class AreaTable {
public:
    static constexpr std::uint32_t k_capacity = 1U << 20;
    static constexpr std::uint64_t k_magic = 0x0161'6e65'7261'6861;
    static constexpr const char* k_file_name = "harena:areas";

    struct Entry {
        SeqLocked<AreaRecord> record;
        SeqLocked<AreaOrigin> origin;
        std::atomic<std::uint64_t> pages;  // mapped now
    };
    struct Header {
        std::uint64_t magic;
        std::uint64_t base;
        std::uint64_t bytes;
        std::atomic<std::uint32_t> used;  // entries from 1 to this have been used
    };

    /// Of a space of `bytes` bytes at `base`, for 1 to `k_capacity` areas. Errors: EINVAL (capacity), EFBIG
    /// (RLIMIT_FSIZE), ENOMEM, EMFILE.
    [[nodiscard]] static Result<std::unique_ptr<AreaTable>> create(const std::byte* base, std::uint64_t bytes,
                                                                   std::uint32_t capacity = k_capacity);
    /// How many areas a file of so many bytes has room for; entry 0 is the header's.
    static constexpr std::uint64_t capacity_of(std::uint64_t file_bytes) noexcept {
        const std::uint64_t entries = file_bytes / k_page_size * k_page_size / sizeof(Entry);
        return entries == 0 ? 0 : entries - 1;
    }
    AreaTable(const AreaTable&) = delete;
    AreaTable& operator=(const AreaTable&) = delete;
    ~AreaTable();

    /// A number for a new area. Errors: ENOMEM (more than `k_capacity`).
    [[nodiscard]] Result<std::uint32_t> take();
    /// Ends an area's number; its entry says so.
    void give(std::uint32_t number) noexcept;

    [[nodiscard]] Entry& operator[](std::uint32_t number) const noexcept { return entries_[number]; }
    /// Numbers that have been used are below this.
    [[nodiscard]] std::uint32_t end() const noexcept { return header_->used.load(std::memory_order_acquire) + 1; }

    /// Between what entries have and what people read. `info_of` is safe for entries of any content.
    static AreaOrigin origin_of(std::string_view name, const std::source_location& where) noexcept;
    [[nodiscard]] static VmAreaInfo info_of(const AreaRecord& record, const AreaOrigin& origin, std::uint64_t pages);

private:
    AreaTable(os::FileDescriptor file, void* memory, std::uint64_t bytes, std::uint32_t capacity) noexcept;

    os::FileDescriptor file_;
    Header* header_;
    Entry* entries_;
    std::uint64_t bytes_;  // of the file
    std::uint32_t capacity_;
    std::optional<NotInherited> not_inherited_;
    std::vector<std::uint32_t> unused_;
};

}  // namespace harena
