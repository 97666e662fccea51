// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <source_location>
#include <string_view>

#include "harena/base/fork.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"

namespace harena {

class VmSpace;

/// Where a window goes, and who asks. All numbers of bytes are multiples of 4096. Text must outlive the call only.
struct VmWindowOptions {
    std::uint64_t bytes = 0;
    /// What its begin is a multiple of: a power of two, at least 4096.
    std::uint64_t alignment = k_page_size;
    /// Reserved with it on either side, and never mapped.
    std::uint64_t guard_below = 0;
    std::uint64_t guard_above = 0;
    /// Where it begins; without one, a place is chosen.
    std::optional<std::uint64_t> address = std::nullopt;
    /// Meant for BPF programs or other guests; holds text.
    bool user = false;
    bool exec = false;
    std::string_view name = {};
    std::source_location where = std::source_location::current();
};

/// Knows how many pages of a window have memory.
class VmPageCounter {
public:
    VmPageCounter() = default;
    VmPageCounter(const VmPageCounter&) = delete;
    VmPageCounter& operator=(const VmPageCounter&) = delete;
    virtual ~VmPageCounter() = default;

    /// Called by any thread, with the space's lock held: takes no lock.
    [[nodiscard]] virtual std::uint64_t present_pages() const noexcept = 0;
};

/// An area of the backed form: reserved addresses with a guard on either side, outside of the space's own range, in
/// which its owner maps a file and keeps account of presence itself. `VmSpace::take_window` makes it, and the space
/// knows it as its other areas.
///
/// A forked child has an inaccessible reservation in its place. What its owner maps in it must be kept from children by
/// the owner (MADV_DONTFORK), with forks held off until it is. Not thread-safe; distinct windows are.
class VmWindow {
public:
    VmWindow(VmWindow&& other) noexcept;
    VmWindow& operator=(VmWindow&& other) noexcept;
    VmWindow(const VmWindow&) = delete;
    VmWindow& operator=(const VmWindow&) = delete;
    /// Gives the addresses back, with all that is mapped there. A fork at this moment inherits what is mapped: an owner
    /// whose file no child may have keeps forks away. Good in a child, too, where what others have mapped there stays.
    ~VmWindow();

    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    /// With the guards.
    [[nodiscard]] std::byte* span_begin() const noexcept { return base_ - guard_below_; }
    [[nodiscard]] std::uint64_t span_bytes() const noexcept { return guard_below_ + bytes_ + guard_above_; }

    /// Asked for the window's pages from now on, until null is set. It must be unset before it is destroyed.
    void count_pages_with(const VmPageCounter* counter) noexcept;

private:
    friend class VmSpace;
    VmWindow(std::byte* base, const VmWindowOptions& options) noexcept
        : base_{base}, bytes_{options.bytes}, guard_below_{options.guard_below}, guard_above_{options.guard_above} {}

    std::byte* base_;  // null: moved from
    std::uint64_t bytes_;
    std::uint64_t guard_below_;
    std::uint64_t guard_above_;
    std::optional<NotInherited> not_inherited_;
    VmSpace* space_ = nullptr;  // null: not registered
    std::uint32_t number_ = 0;
    void* handle_ = nullptr;  // of the space's registry
    ForkGuard fork_guard_;
};

}  // namespace harena
