// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/area_table.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

namespace {

// Entry 0 is the header's.
constexpr std::uint64_t bytes_for(std::uint32_t capacity) noexcept {
    return align_up((std::uint64_t{capacity} + 1) * sizeof(AreaTable::Entry), k_page_size);
}

template <std::size_t Size>
void copy_text(std::array<char, Size>& to, std::string_view text) noexcept {
    // The end of a long path says more than its begin.
    if (text.size() >= Size) text.remove_prefix(text.size() - (Size - 1));
    std::ranges::copy(text, to.begin());
}

/// Up to the zero byte, if there is one; what would do something to a terminal, or end the line, is a question mark.
template <std::size_t Size>
std::string text_of(const std::array<char, Size>& text) {
    std::string out{text.begin(), std::ranges::find(text, '\0')};
    std::ranges::replace_if(out, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, '?');
    return out;
}

}  // namespace

Result<std::unique_ptr<AreaTable>> AreaTable::create(const std::byte* base, std::uint64_t bytes,
                                                     std::uint32_t capacity) {
    if (capacity == 0 || capacity > k_capacity)
        return fail(EINVAL, "a table of {} areas: it takes 1 to {}", capacity, k_capacity);
    const std::uint64_t file_bytes = bytes_for(capacity);
    HARENA_CHECK_OK(check_file_size(file_bytes, "the file of a space's areas"));
    auto file = os::memfd_create(k_file_name);
    if (!file) return os::fail_with(file.error(), "cannot create the file of a space's areas");
    if (const auto sized = os::ftruncate(file->get(), file_bytes); !sized)
        return os::fail_with(sized.error(), "cannot size the file of a space's areas");
    if (const auto sealed = os::add_seals(file->get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); !sealed)
        return os::fail_with(sealed.error(), "cannot seal the file of a space's areas");
    // Unlocked before it can be written to: under mlockall(MCL_FUTURE), all of it would be filled.
    const auto mapped = os::mmap(nullptr, file_bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file->get(), 0);
    if (!mapped) return map_error(mapped.error(), "cannot map the file of a space's areas");
    std::unique_ptr<AreaTable> table{new (std::nothrow) AreaTable{*std::move(file), *mapped, file_bytes, capacity}};
    if (!table) {
        (void)os::munmap(*mapped, file_bytes);
        return fail(ENOMEM, "no memory for the table of a space's areas");
    }
    (void)os::munlock(*mapped, file_bytes);
    if (const auto opened = os::mprotect(*mapped, file_bytes, PROT_READ | PROT_WRITE); !opened)
        return os::fail_with(opened.error(), "cannot make the file of a space's areas writable");
    HARENA_TRY(NotInherited not_inherited, NotInherited::after_fork(*mapped, file_bytes));
    table->not_inherited_.emplace(std::move(not_inherited));
    table->header_->base = reinterpret_cast<std::uint64_t>(base);
    table->header_->bytes = bytes;
    table->header_->magic = k_magic;
    return table;
}

AreaTable::AreaTable(os::FileDescriptor file, void* memory, std::uint64_t bytes, std::uint32_t capacity) noexcept
    : file_{std::move(file)},
      header_{static_cast<Header*>(memory)},
      entries_{static_cast<Entry*>(memory)},
      bytes_{bytes},
      capacity_{capacity} {}

AreaTable::~AreaTable() {
    not_inherited_.reset();
    (void)os::munmap(header_, bytes_);
}

Result<std::uint32_t> AreaTable::take() {
    if (!unused_.empty()) {
        const std::uint32_t number = unused_.back();
        unused_.pop_back();
        return number;
    }
    const std::uint32_t number = end();
    if (number > capacity_) return fail(ENOMEM, "a space has {} areas at most, of which this one has all", capacity_);
    try {
        // So that `give` needs no memory.
        if (unused_.capacity() < number) unused_.reserve(2 * std::size_t{number});
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the list of {} areas", number);
    }
    header_->used.store(number, std::memory_order_release);
    return number;
}

void AreaTable::give(std::uint32_t number) noexcept {
    entries_[number].record.store({});
    unused_.push_back(number);
}

AreaOrigin AreaTable::origin_of(std::string_view name, const std::source_location& where) noexcept {
    AreaOrigin origin;
    copy_text(origin.name, name);
    copy_text(origin.file, where.file_name());
    origin.line = where.line();
    return origin;
}

VmAreaInfo AreaTable::info_of(const AreaRecord& record, const AreaOrigin& origin, std::uint64_t pages) {
    return {.begin = reinterpret_cast<std::byte*>(record.begin),
            .bytes = record.bytes,
            .guard_bytes = record.guard_bytes,
            .guard_below = record.guard_below,
            .kind = record.kind,
            .unpurged = record.state == AreaState::unpurged,
            .user = record.user != 0,
            .exec = record.exec != 0,
            .pages = pages,
            .file_offset = record.file_offset,
            .where = fmt::format("{}:{}", text_of(origin.file), origin.line),
            .name = text_of(origin.name)};
}

}  // namespace harena
