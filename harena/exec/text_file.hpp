// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// The unit in which text is mapped and given back.
inline constexpr std::uint64_t k_text_block = k_huge_page_size;

/// The file that text is in, and its mapping at one place: byte `offset` of the file is at `base + offset`, readable
/// and executable, in blocks of 2 MiB that are mapped or not. All system calls about text are here.
///
/// Invariant: no mapping of the file is writable, and none that is executable was ever anything else; a block holds
/// traps before it is executable.
///
/// Writing is thread-safe; `grow` and `give_back` are for one thread at a time.
class TextFile {
public:
    /// For [base, base + bytes), which is reserved and stays so: multiples of 2 MiB. With forks blocked. Errors: EFBIG
    /// (RLIMIT_FSIZE), EMFILE, ENOMEM.
    [[nodiscard]] static Result<std::unique_ptr<TextFile>> create(std::byte* base, std::uint64_t bytes, bool huge);
    TextFile(const TextFile&) = delete;
    TextFile& operator=(const TextFile&) = delete;
    ~TextFile() = default;

    /// Makes a block of traps and maps it. Errors, after which it is not mapped: EFBIG, ENOMEM (memory, mappings).
    Result<void> grow(std::uint64_t block);
    /// Unmaps a block and gives its memory back. Errors, after which it is as it was: ENOMEM (mappings).
    Result<void> give_back(std::uint64_t block);

    /// Writes to mapped text. Errors, after which part of it may be written: EFBIG (RLIMIT_FSIZE), those of pwrite.
    Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes);
    Result<void> fill_with_traps(std::uint64_t offset, std::uint64_t bytes);

    /// Blocks that became one 2 MiB page, and that did not.
    [[nodiscard]] std::uint64_t collapsed() const noexcept { return collapsed_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t not_collapsed() const noexcept {
        return not_collapsed_.load(std::memory_order_relaxed);
    }

    /// Closes the file in a child after fork. Async-signal-safe.
    void abandon_in_child() noexcept { fd_.reset(); }

private:
    TextFile(os::FileDescriptor fd, std::byte* base, bool huge) noexcept
        : fd_{std::move(fd)}, base_{base}, huge_{huge} {}
    Result<void> fill(std::uint64_t offset, std::uint64_t bytes);
    void undo_growth(std::uint64_t block) noexcept;
    os::SysResult<void> map_nothing(std::uint64_t block) noexcept;

    os::FileDescriptor fd_;
    std::byte* base_;
    bool huge_;
    std::atomic<std::uint64_t> collapsed_{0};
    std::atomic<std::uint64_t> not_collapsed_{0};
};

}  // namespace harena
