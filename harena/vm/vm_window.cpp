// SPDX-License-Identifier: Apache-2.0
// Windows: areas outside of the space's own range, and the space of the process that arenas take theirs from.
#include "harena/vm/vm_window.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <charconv>
#include <new>
#include <string_view>
#include <utility>

#include "harena/base/os/file.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/vm/reservation.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {

namespace {

// Never destroyed: whoever has a window needs it to the end.
constinit std::atomic<VmSpace*> process_space{nullptr};

Result<void> check(const VmWindowOptions& options) {
    constexpr std::uint64_t k_most = reservation::k_end_of_addresses / 4;
    if (options.bytes == 0) return fail(EINVAL, "a window of 0 bytes");
    if (!std::has_single_bit(options.alignment) || options.alignment < k_page_size)
        return fail(EINVAL, "a window's alignment is a power of two from {} on, not {}", k_page_size,
                    options.alignment);
    for (const std::uint64_t bytes : {options.bytes, options.guard_below, options.guard_above, options.alignment}) {
        if (!is_aligned(bytes, k_page_size)) return fail(EINVAL, "{} bytes are no whole pages", bytes);
        if (bytes > k_most) return fail(ENOMEM, "a window of {} bytes: {} at most", bytes, k_most);
    }
    if (options.address && !is_aligned(*options.address, options.alignment))
        return fail(EINVAL, "{:#x} is not a multiple of the window's alignment {:#x}", *options.address,
                    options.alignment);
    return {};
}

// Of a window in a child after fork: only what is inaccessible. Others, a sanitizer's thread for one, may have mapped
// something where the parent's memory was, before the range was reserved again.
void unmap_reservation(std::uint64_t begin, std::uint64_t end) noexcept try {
    const auto text = os::read_file("/proc/self/maps");
    if (!text) return;  // it stays
    std::string_view rest{reinterpret_cast<const char*>(text->data()), text->size()};
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        const char* const line_end = line.data() + line.size();
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        const auto dash = std::from_chars(line.data(), line_end, from, 16);
        if (dash.ptr == line_end) continue;
        const auto space = std::from_chars(dash.ptr + 1, line_end, to, 16);
        from = std::max(from, begin);
        to = std::min(to, end);
        if (from < to && std::string_view{space.ptr, line_end}.starts_with(" ---p "))
            (void)os::munmap(reinterpret_cast<void*>(from), to - from);
    }
} catch (const std::bad_alloc&) {
    return;  // it stays, too
}

}  // namespace

Result<VmSpace*> VmSpace::process() {
    // One for each entry of 4 GiB that the address space has, as far as the table's file may be so large.
    constexpr std::uint32_t k_areas = 1U << 15;
    VmSpace* now = process_space.load(std::memory_order_acquire);
    while (now == nullptr || now->fork_guard_.owner_dead()) {
        const auto limit = os::getrlimit(RLIMIT_FSIZE);
        const std::uint64_t areas = limit ? AreaTable::capacity_of(*limit) : k_areas;
        HARENA_TRY(std::unique_ptr<VmSpace> made,
                   create({.bytes = k_gib,
                           .pool = nullptr,
                           .max_areas = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(areas, 1, k_areas))}));
        made->before_fork_ = now;
        // Else another thread was first, and its space is as good.
        if (process_space.compare_exchange_strong(now, made.get(), std::memory_order_acq_rel)) now = made.release();
    }
    return now;
}

Result<VmWindow> VmSpace::take_window(const VmWindowOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    HARENA_CHECK_OK(check(options));
    const reservation::Shape shape{.bytes = options.bytes,
                                   .alignment = options.alignment,
                                   .guard_below = options.guard_below,
                                   .guard_above = options.guard_above};
    HARENA_TRY(std::byte* const base, options.address ? reservation::reserve_at(*options.address, shape)
                                                      : reservation::reserve_anywhere(shape));
    VmWindow window{base, options};  // from here on, it gives back what was reserved
    HARENA_TRY(NotInherited not_inherited, NotInherited::leaving_others(window.span_begin(), window.span_bytes()));
    window.not_inherited_.emplace(std::move(not_inherited));

    const AreaRecord record{.begin = reinterpret_cast<std::uint64_t>(base),
                            .bytes = options.bytes,
                            .guard_bytes = options.guard_above,
                            .guard_below = options.guard_below,
                            .file_offset = 0,
                            .state = AreaState::live,
                            .kind = VmKind::backed,
                            .user = options.user,
                            .exec = options.exec};
    const std::lock_guard lock{mutex_};
    HARENA_TRY(const std::uint32_t number, records_->take());
    Result<void*> handle = nullptr;
    try {
        if (number >= areas_.size()) areas_.resize(number + 1);
        handle = windows_.add(record);
    } catch (const std::bad_alloc&) {
        handle = fail(ENOMEM, "no memory for the description of a window");
    }
    if (!handle) {
        records_->give(number);
        return pass_on(handle.error());
    }
    AreaTable::Entry& entry = (*records_)[number];
    entry.pages.store(0, std::memory_order_relaxed);
    entry.origin.store(AreaTable::origin_of(options.name, options.where));
    entry.record.store(record);
    ++statistics_.areas;
    window.space_ = this;
    window.number_ = number;
    window.handle_ = *handle;
    return window;
}

void VmSpace::give_window(const VmWindow& window) noexcept {
    if (fork_guard_.owner_dead()) return;
    const std::lock_guard lock{mutex_};
    windows_.remove(window.handle_);
    areas_[window.number_].clear();
    records_->give(window.number_);
    --statistics_.areas;
}

std::optional<AreaRecord> VmSpace::find_window(const void* address) const noexcept {
    const auto at = reinterpret_cast<std::uint64_t>(address);
    return windows_.find_if([at](const AreaRecord& record) {
        return at - (record.begin - record.guard_below) < record.guard_below + record.bytes + record.guard_bytes;
    });
}

void VmSpace::set_page_counter(std::uint32_t number, const VmPageCounter* counter) noexcept {
    if (fork_guard_.owner_dead()) return;
    const std::lock_guard lock{mutex_};
    areas_[number].counter_ = counter;
}

void VmSpace::count_window_pages() const noexcept {
    for (std::uint32_t number = 1; number < areas_.size(); ++number)
        if (const VmPageCounter* const counter = areas_[number].counter_)
            (*records_)[number].pages.store(counter->present_pages(), std::memory_order_relaxed);
}

VmWindow::VmWindow(VmWindow&& other) noexcept
    : base_{std::exchange(other.base_, nullptr)},
      bytes_{other.bytes_},
      guard_below_{other.guard_below_},
      guard_above_{other.guard_above_},
      not_inherited_{std::move(other.not_inherited_)},
      space_{std::exchange(other.space_, nullptr)},
      number_{other.number_},
      handle_{other.handle_},
      fork_guard_{other.fork_guard_} {
    other.not_inherited_.reset();
}

VmWindow& VmWindow::operator=(VmWindow&& other) noexcept {
    if (this != &other) {
        std::destroy_at(this);
        std::construct_at(this, std::move(other));
    }
    return *this;
}

VmWindow::~VmWindow() {
    if (base_ == nullptr) return;
    // It is no area any more before its addresses are anybody's.
    if (space_ != nullptr) space_->give_window(*this);
    not_inherited_.reset();
    const auto begin = reinterpret_cast<std::uint64_t>(span_begin());
    if (fork_guard_.owner_dead())
        unmap_reservation(begin, begin + span_bytes());
    else
        (void)os::munmap(span_begin(), span_bytes());
}

void VmWindow::count_pages_with(const VmPageCounter* counter) noexcept {
    if (space_ != nullptr) space_->set_page_counter(number_, counter);
}

}  // namespace harena
