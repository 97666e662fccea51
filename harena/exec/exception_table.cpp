// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/exception_table.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "harena/base/immortal.hpp"
#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

namespace {

constinit Immortal<ExceptionTable::Pages> pages;
constinit Immortal<ExceptionTable::Writer> writer;
constinit const ExceptionTable table{pages.value, writer.value};

/// What is in the file.
using Record = ExceptionRange;

os::SysResult<void> write_all(int file, const void* bytes, std::size_t length, std::uint64_t offset) noexcept {
    const auto* from = static_cast<const std::byte*>(bytes);
    while (length > 0) {
        const auto written = os::pwrite(file, from, length, offset);
        if (!written && written.error().code == EINTR) continue;
        if (!written) return std::unexpected{written.error()};
        if (*written == 0) return os::sys_fail(ENOSPC);
        from += *written;
        length -= *written;
        offset += *written;
    }
    return {};
}

/// The bytes of the file up to the ends of two arrays with so many pages each.
constexpr std::uint64_t file_bytes_for(std::uint64_t array_pages) noexcept {
    return (1 + 2 * array_pages) * k_page_size;
}

/// Writes one of the arrays, a page at a time.
class RecordWriter {
public:
    /// `first`: where its first page is in the file.
    RecordWriter(int file, std::uint64_t first) noexcept : file_{file}, offset_{first} {}

    os::SysResult<void> put(const Record& record) noexcept {
        buffer_[waiting_++] = record;
        ++count_;
        return waiting_ == buffer_.size() ? flush() : os::SysResult<void>{};
    }
    os::SysResult<void> flush() noexcept {
        const std::size_t bytes = std::exchange(waiting_, 0) * sizeof(Record);
        return write_all(file_, buffer_.data(), bytes, std::exchange(offset_, offset_ + 2 * k_page_size));
    }
    /// How many there were.
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

private:
    int file_;
    std::uint64_t offset_;
    std::uint64_t count_ = 0;
    std::size_t waiting_ = 0;
    std::array<Record, k_page_size / sizeof(Record)> buffer_;
};

}  // namespace

const ExceptionTable& ExceptionTable::instance() noexcept { return table; }

Record ExceptionTable::record_of(const Entry& entry) noexcept {
    return {.begin = entry.begin.load(), .end = entry.end.load(), .fixup = entry.fixup.load()};
}

std::uint64_t ExceptionTable::count(std::uint64_t version) const noexcept {
    return std::min<std::uint64_t>(pages_.counts[version % 2].load(std::memory_order_relaxed), k_capacity);
}

const ExceptionTable::Entry& ExceptionTable::entry(std::uint64_t version, std::uint64_t index) const noexcept {
    static_assert(sizeof(Entry) == sizeof(Record) && std::atomic<std::uintptr_t>::is_always_lock_free);
    return pages_.arrays[index / k_page_entries][version % 2].entries[index % k_page_entries];
}

std::uint64_t ExceptionTable::begun(std::uint64_t version, std::uintptr_t at) const noexcept {
    std::uint64_t low = 0;
    for (std::uint64_t high = count(version); low < high;) {
        const std::uint64_t middle = (low + high) / 2;
        if (entry(version, middle).begin.load(std::memory_order_relaxed) <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

std::uintptr_t ExceptionTable::find_fixup(std::uintptr_t instruction) const noexcept {
    for (;;) {
        const std::uint64_t version = pages_.version.load(std::memory_order_acquire);
        std::uintptr_t fixup = 0;
        if (const std::uint64_t behind = begun(version, instruction); behind != 0) {
            const Entry& last = entry(version, behind - 1);
            if (instruction < last.end.load(std::memory_order_relaxed))
                fixup = last.fixup.load(std::memory_order_relaxed);
        }
        // The next version is in the other array; only the one after that is written here.
        std::atomic_thread_fence(std::memory_order_acquire);
        if (pages_.version.load(std::memory_order_relaxed) == version) return fixup;
    }
}

std::uint64_t ExceptionTable::offset_of(const void* at) const noexcept {
    return static_cast<std::uint64_t>(static_cast<const std::byte*>(at) - reinterpret_cast<const std::byte*>(&pages_));
}

// With the mutex held. What is seen stays what it is.
os::SysResult<void> ExceptionTable::move_to_own_file() const noexcept {
    const std::uint64_t bytes = writer_.file_bytes;
    if (const auto limit = os::getrlimit(RLIMIT_FSIZE); limit && *limit < bytes) return os::sys_fail(EFBIG);
    auto made = os::memfd_create("harena:extable");
    if (!made) return std::unexpected{made.error()};
    const int file = made->get();
    if (const auto sized = os::ftruncate(file, bytes); !sized) return sized;
    if (const auto sealed = os::add_seals(file, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); !sealed) return sealed;
    std::uint64_t version = 0;
    do {  // again, where a child sees its parent's ranges and that one changes them
        version = pages_.version.load();
        const std::uint64_t ranges = count(version);
        RecordWriter records{file, offset_of(&entry(version, 0))};
        for (std::uint64_t i = 0; i < ranges; ++i)
            if (const auto done = records.put(record_of(entry(version, i))); !done) return done;
        if (const auto done = records.flush(); !done) return done;
        const std::uint64_t counted = offset_of(&pages_.counts[version % 2]);
        if (const auto done = write_all(file, &ranges, sizeof ranges, counted); !done) return done;
        if (const auto done = write_all(file, &version, sizeof version, offset_of(&pages_.version)); !done) return done;
    } while (pages_.version.load() != version);
    // Elsewhere first, and unlocked: under mlockall(MCL_FUTURE) all of it would be filled.
    const auto mapped = os::mmap(nullptr, bytes, PROT_NONE, MAP_SHARED, file, 0);
    if (!mapped) return std::unexpected{mapped.error()};
    (void)os::munlock(*mapped, bytes);
    auto moved = os::mprotect(*mapped, bytes, PROT_READ);
    if (moved) moved = os::mremap_over(*mapped, bytes, &pages_);
    if (!moved) {
        (void)os::munmap(*mapped, bytes);
        return moved;
    }
    writer_.file = std::move(*made);
    return {};
}

// With the mutex held.
Result<void> ExceptionTable::make_room(std::uint64_t ranges) const {
    constexpr std::string_view k_what = "the file of the exception table";
    const std::uint64_t needed = file_bytes_for((ranges + k_page_entries - 1) / k_page_entries);
    HARENA_CHECK_OK(check_file_size(needed, k_what));
    if (writer_.file_bytes == 0) {
        // As large as it may be, once and for all: behind a file's end there would be pages that trap whoever looks at
        // all of the program's data.
        const auto limit = os::getrlimit(RLIMIT_FSIZE);
        const std::uint64_t most = std::min<std::uint64_t>(sizeof(Pages), limit ? *limit : sizeof(Pages));
        writer_.file_bytes = file_bytes_for((most / k_page_size - 1) / 2);
    }
    if (needed > writer_.file_bytes)
        return fail(EFBIG, "the exception table was made when RLIMIT_FSIZE was lower: it has room for {} ranges",
                    ranges - 1);
    if (writer_.file.get() < 0)
        if (const auto moved = move_to_own_file(); !moved)
            return map_error(moved.error(), fmt::format("cannot make {}", k_what));
    return {};
}

// With the mutex held: the next version in the array that is not valid, then its number.
os::SysResult<void> ExceptionTable::publish(const ExceptionRange* added, Handle removed) const noexcept {
    const std::uint64_t version = pages_.version.load();
    const std::uint64_t next = version + 1;
    const std::uint64_t ranges = count(version);
    const std::uint64_t end = file_bytes_for((ranges + k_page_entries) / k_page_entries);
    if (const auto limit = os::getrlimit(RLIMIT_FSIZE); limit && *limit < end) return os::sys_fail(EFBIG);
    const int file = writer_.file.get();
    RecordWriter records{file, offset_of(&entry(next, 0))};
    bool to_add = added != nullptr;
    for (std::uint64_t i = 0; i <= ranges; ++i) {
        const Record old = i < ranges ? record_of(entry(version, i)) : Record{};
        if (to_add && (i == ranges || added->begin < old.begin)) {
            to_add = false;
            if (const auto done = records.put(*added); !done) return done;
        }
        if (i == ranges || old.begin == removed) continue;
        if (const auto done = records.put(old); !done) return done;
    }
    if (const auto done = records.flush(); !done) return done;
    const std::uint64_t written = records.count();
    if (const auto done = write_all(file, &written, sizeof written, offset_of(&pages_.counts[next % 2])); !done)
        return done;
    // What the kernel stores for this thread is as if this thread did.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return write_all(file, &next, sizeof next, offset_of(&pages_.version));
}

Result<ExceptionTable::Handle> ExceptionTable::add(const ExceptionRange& range) const {
    if (range.begin == 0 || range.end <= range.begin || range.fixup == 0)
        return fail(EINVAL, "{:#x}-{:#x} with fix-up {:#x} is no exception range", range.begin, range.end, range.fixup);
    const std::lock_guard lock{writer_.mutex};
    const std::uint64_t version = pages_.version.load();
    const std::uint64_t ranges = count(version);
    if (ranges == k_capacity) return fail(ENOMEM, "the exception table has {} ranges, as many as it can", k_capacity);
    const std::uint64_t behind = begun(version, range.begin);
    if ((behind > 0 && range.begin < entry(version, behind - 1).end.load()) ||
        (behind < ranges && entry(version, behind).begin.load() < range.end))
        return fail(EEXIST, "{:#x}-{:#x} overlaps another exception range", range.begin, range.end);
    HARENA_CHECK_OK(make_room(ranges + 1));
    if (const auto done = publish(&range, 0); !done)
        return os::fail_with(done.error(), "cannot write to the exception table");
    return range.begin;
}

void ExceptionTable::remove(Handle handle) const noexcept {
    const std::lock_guard lock{writer_.mutex};
    if (pages_.version.load() == 0) return;
    // A child that had no memory for its own ranges tries again.
    if (writer_.file.get() < 0 && !move_to_own_file()) std::abort();
    // There is memory behind this array already: no array is longer than the one before it by more than one, and that
    // one was longer than this.
    if (!publish(nullptr, handle)) std::abort();
}

void ExceptionTable::unlock_in_child() const noexcept {
    if (writer_.file.get() >= 0) {
        writer_.file.reset();  // the parent's
        (void)move_to_own_file();
    }
    writer_.mutex.unlock();
}

}  // namespace harena
