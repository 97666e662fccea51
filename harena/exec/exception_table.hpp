// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// Text [begin, end) whose memory faults are expected: a fault at an instruction in it continues at `fixup`.
/// The fix-up finds all registers as the faulting instruction left them, which is: unchanged.
struct ExceptionRange {
    std::uintptr_t begin;
    std::uintptr_t end;
    std::uintptr_t fixup;
};

/// Which text of this process may fault, and where it goes on (kernel: the exception tables of copy_from_user and BPF).
///
/// The ranges are in sealed memory: whoever can write to any address of the process can still not say where it goes on
/// after a fault. They are two sorted arrays in a file that is mapped read-only and written by pwrite, one of which is
/// valid at a time (docs/exec.md). The object itself has nothing but addresses, and is constant: where it is a global,
/// the loader makes it read-only (RELRO).
class ExceptionTable {
public:
    /// Names a range that was added.
    using Handle = std::uintptr_t;

    static constexpr std::size_t k_capacity = 20'000;

private:
    struct Entry {
        std::atomic<std::uintptr_t> begin;
        std::atomic<std::uintptr_t> end;
        std::atomic<std::uintptr_t> fixup;
    };
    static constexpr std::size_t k_page_entries = k_page_size / sizeof(Entry);
    static constexpr std::size_t k_array_pages = (k_capacity + k_page_entries - 1) / k_page_entries;

    /// A page of an array.
    struct alignas(k_page_size) EntryPage {
        std::array<Entry, k_page_entries> entries;
    };

public:
    /// Where a table is to be seen: pages of zeros until the first range is added, then read-only ones, as far as the
    /// file goes.
    /// Invariant: array `version % 2` is valid, sorted, and does not change while the version is what it is.
    struct alignas(k_page_size) Pages {
        std::atomic<std::uint64_t> version;
        std::array<std::atomic<std::uint64_t>, 2> counts;
        std::array<std::array<EntryPage, 2>, k_array_pages> arrays;  // the two, page by page
    };

    /// What the writers of a table share.
    struct Writer {
        std::mutex mutex;
        os::FileDescriptor file;
        std::uint64_t file_bytes = 0;  // fixed with the first range: what is mapped, in children too
    };

    /// Both must outlive this object, and every signal handler that searches.
    constexpr ExceptionTable(Pages& pages, Writer& writer) noexcept : pages_{pages}, writer_{writer} {}

    /// The one of this process.
    [[nodiscard]] static const ExceptionTable& instance() noexcept;

    /// Registers a range. Errors: EINVAL (empty, or without a fix-up), EEXIST (it overlaps another), ENOMEM (there is
    /// no memory, or there are `k_capacity` ranges), EMFILE, EFBIG (RLIMIT_FSIZE). Thread-safe.
    [[nodiscard]] Result<Handle> add(const ExceptionRange& range) const;

    /// Takes a range back, when no thread can be in it any more. Aborts if the kernel refuses that, which it has no
    /// reason for: a range without text would be a promise about somebody else's. Thread-safe.
    void remove(Handle handle) const noexcept;

    /// Where to go on after a fault at `instruction`, or 0 if that is in no range. Async-signal-safe, lock-free.
    [[nodiscard]] std::uintptr_t find_fixup(std::uintptr_t instruction) const noexcept;

    /// Held across fork, so that the child finds no half-written array.
    void lock() const noexcept { writer_.mutex.lock(); }
    void unlock() const noexcept { writer_.mutex.unlock(); }
    /// In the child, instead: gives it ranges of its own. If there is no memory for that, it has its parent's, until it
    /// adds one. Async-signal-safe.
    void unlock_in_child() const noexcept;

private:
    [[nodiscard]] std::uint64_t count(std::uint64_t version) const noexcept;
    [[nodiscard]] const Entry& entry(std::uint64_t version, std::uint64_t index) const noexcept;
    [[nodiscard]] static ExceptionRange record_of(const Entry& entry) noexcept;
    /// How many ranges begin at `at` or below.
    [[nodiscard]] std::uint64_t begun(std::uint64_t version, std::uintptr_t at) const noexcept;
    [[nodiscard]] std::uint64_t offset_of(const void* at) const noexcept;
    [[nodiscard]] Result<void> make_room(std::uint64_t ranges) const;
    os::SysResult<void> move_to_own_file() const noexcept;
    os::SysResult<void> publish(const ExceptionRange* added, Handle removed) const noexcept;

    Pages& pages_;
    Writer& writer_;
};

}  // namespace harena
