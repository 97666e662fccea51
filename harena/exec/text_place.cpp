// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_place.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "harena/base/os/file.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

namespace {

constexpr std::uint64_t k_reach = 2 * k_gib;  // of a call or a RIP-relative access
constexpr std::uint64_t k_guard = k_page_size;
// Below are null pointers and what the kernel keeps away (vm.mmap_min_addr).
constexpr std::uint64_t k_begin_of_addresses = 64 * k_kib;

VmWindowOptions window_of(const TextPlaceOptions& options, std::optional<std::uint64_t> address) {
    return {.bytes = options.bytes,
            .alignment = k_huge_page_size,
            .guard_below = k_guard,
            .guard_above = k_guard,
            .address = address,
            .exec = true,
            .name = options.name,
            .where = options.where};
}

/// What is mapped, by address.
Result<std::vector<os::AddressRange>> mappings() {
    const auto text = os::read_file("/proc/self/maps");
    if (!text) return os::fail_with(text.error(), "/proc/self/maps cannot be read");
    std::vector<os::AddressRange> ranges;
    std::string_view rest{reinterpret_cast<const char*>(text->data()), text->size()};
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        os::AddressRange range{.begin = 0, .end = 0};
        const auto dash = std::from_chars(line.data(), line.data() + line.size(), range.begin, 16);
        if (dash.ptr == line.data() + line.size()) continue;
        std::from_chars(dash.ptr + 1, line.data() + line.size(), range.end, 16);
        ranges.push_back(range);
    }
    return ranges;
}

/// A free place for `bytes` and guards that reaches all of `program`, and is reached from there: the nearest below it,
/// else the farthest above: the program's heap grows upwards from its end.
std::optional<std::uint64_t> gap_near(const os::AddressRange& program, std::uint64_t bytes,
                                      const std::vector<os::AddressRange>& mapped) {
    const std::uint64_t lowest =
        std::max(program.end > k_reach ? program.end - k_reach : 0, k_begin_of_addresses) + k_guard;
    const std::uint64_t end = program.begin + k_reach - k_guard;
    std::optional<std::uint64_t> below;
    std::optional<std::uint64_t> above;
    std::uint64_t gap_begin = lowest;
    const auto look_at = [&](std::uint64_t gap_end) {
        const std::uint64_t limit = std::min(gap_end, end);
        if (limit < gap_begin + 2 * k_guard + bytes) return;
        const std::uint64_t base = align_down(limit - k_guard - bytes, k_huge_page_size);
        if (base < gap_begin + k_guard) return;
        (base < program.begin ? below : above) = base;
    };
    for (const os::AddressRange& range : mapped) {
        look_at(range.begin);
        gap_begin = std::max(gap_begin, range.end);
    }
    look_at(end);
    return below ? below : above;
}

}  // namespace

Result<TextPlace> TextPlace::reserve(const TextPlaceOptions& options) {
    if (options.space != nullptr) return reserve_inside(options);
    if (options.near_program) return reserve_near_program(options);
    HARENA_TRY(VmSpace* const process, VmSpace::process());
    HARENA_TRY(VmWindow window, process->take_window(window_of(options, std::nullopt)));
    std::byte* const base = window.base();
    return TextPlace{base, options.bytes, Where{std::move(window)}};
}

Result<TextPlace> TextPlace::reserve_inside(const TextPlaceOptions& options) {
    if (options.near_program) return fail(EINVAL, "text is either near the program or in a space that is given");
    if (options.space->bytes() > k_reach)
        return fail(EINVAL, "text in a space of {} bytes: it reaches all of the space's data if that has {} at most",
                    options.space->bytes(), k_reach);
    // More than needed, so that a multiple of 2 MiB is inside.
    const std::uint64_t bytes = options.bytes + k_huge_page_size;
    HARENA_TRY(VmArea* const area,
               options.space->get_vm_area(bytes, VmKind::sparse,
                                          {.exec = true, .name = options.name, .where = options.where}));
    const auto begin = reinterpret_cast<std::uint64_t>(area->begin());
    auto* const base = area->begin() + (align_up(begin, k_huge_page_size) - begin);
    return TextPlace{base, options.bytes, Inside{.space = options.space, .area = area}};
}

Result<TextPlace> TextPlace::reserve_near_program(const TextPlaceOptions& options) try {
    HARENA_TRY(VmSpace* const process, VmSpace::process());
    const os::AddressRange program = os::program_text();
    constexpr int k_tries = 8;  // another thread may map something in the gap
    for (int i = 0; i < k_tries; ++i) {
        HARENA_TRY(const std::vector<os::AddressRange> mapped, mappings());
        const auto base = gap_near(program, options.bytes, mapped);
        if (!base) break;
        auto window = process->take_window(window_of(options, base));
        if (!window && window.error().code() == EEXIST) continue;
        if (!window) return pass_on(window.error());
        return TextPlace{reinterpret_cast<std::byte*>(*base), options.bytes, Where{std::move(*window)}};
    }
    return fail(EADDRNOTAVAIL,
                "no gap of {} bytes lies within 2 GiB of the program's text at {:#x}-{:#x}; ask for fewer (max_bytes)",
                options.bytes, program.begin, program.end);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to look for a place near the program");
}

TextPlace::TextPlace(TextPlace&& other) noexcept
    : base_{std::exchange(other.base_, nullptr)},
      bytes_{other.bytes_},
      where_{std::move(other.where_)},
      fork_guard_{other.fork_guard_} {}

TextPlace::~TextPlace() {
    if (base_ == nullptr || fork_guard_.owner_dead()) return;
    const auto* const inside = std::get_if<Inside>(&where_);
    if (inside == nullptr) return;
    // The space takes the area for empty, and may use its addresses again at once.
    const auto gone =
        os::mmap(base_, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    // Where the kernel has no mapping left, the area is nobody's for good.
    if (gone || os::mprotect(base_, bytes_, PROT_NONE)) (void)inside->space->free_vm_area(inside->area);
}

void TextPlace::count_pages_with(const VmPageCounter* counter) noexcept {
    if (auto* const window = std::get_if<VmWindow>(&where_)) window->count_pages_with(counter);
}

}  // namespace harena
