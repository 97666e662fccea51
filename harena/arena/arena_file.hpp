// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "harena/arena/arena_words.hpp"
#include "harena/arena/attach_slots.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// What all processes of an arena agree on. Fixed when it is made, and read from the file once.
struct ArenaGeometry {
    std::string name;
    PageCount pages;
    UserAddress user_vm_start;
    bool segv_on_fault = false;
    bool no_user_conv = false;
    bool strict_reserve = false;
    bool null_guard = false;
    /// Touches are seen by userfaultfd, in all processes; else by looking (docs/arena.md, "Without userfaultfd").
    bool watched = true;
    /// On the machine's reserved 2 MiB pages.
    bool hugetlb = false;
    /// A number that no other arena has.
    std::uint64_t id = 0;

    /// Memory comes and goes in units of so many pages.
    [[nodiscard]] PageCount unit() const noexcept { return PageCount{hugetlb ? k_huge_page_size / k_page_size : 1}; }
};

/// The file of an arena: its pages, then a word for each of them, then one page that says what it all is.
///
/// The file's size is sealed. The part behind the arena's pages is mapped here; it is shared with other processes, all
/// of which may be hostile: nothing in it is trusted but what is a number in range.
class ArenaFile {
public:
    /// Makes a file, with a slot of it for this process. Errors: EFBIG (RLIMIT_FSIZE), EMFILE, ENOMEM, ENOENT (no
    /// /proc); ENOMEM with `hugetlb`, too, if too few such pages are free.
    [[nodiscard]] static Result<std::unique_ptr<ArenaFile>> create(const ArenaGeometry& geometry);
    /// The file that `path` leads to, such as /proc/PID/fd/N, with a slot of it for this process. Errors: ENOENT,
    /// EACCES, EINVAL (not an arena's file, or not sealed), EUSERS, EMFILE, ENOMEM.
    [[nodiscard]] static Result<std::unique_ptr<ArenaFile>> open(const std::string& path);
    ArenaFile(const ArenaFile&) = delete;
    ArenaFile& operator=(const ArenaFile&) = delete;
    ~ArenaFile();

    [[nodiscard]] const ArenaGeometry& geometry() const noexcept { return geometry_; }
    /// The description that has this process's lock. Never leaves the process.
    [[nodiscard]] int fd() const noexcept { return file_.get(); }
    /// Another description of the same file, for another process. Errors: EMFILE, ENOENT (no /proc).
    [[nodiscard]] Result<os::FileDescriptor> share() const;
    [[nodiscard]] ArenaWords words() const noexcept { return words_; }
    [[nodiscard]] AttachSlots& slots() noexcept { return *slots_; }
    [[nodiscard]] const AttachSlots& slots() const noexcept { return *slots_; }

    /// In a child after fork: gives up what belongs to the parent. Async-signal-safe.
    void abandon_in_child() noexcept;

    /// What the file of an arena says of itself, without mapping it: for those who only look. Errors: EINVAL (it is
    /// none, or says what cannot be), and those of pread.
    [[nodiscard]] static Result<ArenaGeometry> read_geometry(int fd, std::uint64_t file_bytes);
    /// Where the arena's first page is in its file: as far behind a multiple of 2 MiB as its address is, so that what
    /// is a 2 MiB block in the one is a block in the other.
    [[nodiscard]] static std::uint64_t data_offset(const ArenaGeometry& geometry) noexcept;
    /// Where the words of the pages begin.
    [[nodiscard]] static std::uint64_t words_offset(const ArenaGeometry& geometry) noexcept;

private:
    ArenaFile() = default;

    [[nodiscard]] Result<void> map();

    ArenaGeometry geometry_;
    os::FileDescriptor file_;
    std::byte* memory_ = nullptr;  // words, then the description
    std::uint64_t bytes_ = 0;
    ArenaWords words_;
    std::optional<AttachSlots> slots_;
};

}  // namespace harena
