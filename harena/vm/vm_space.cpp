// SPDX-License-Identifier: Apache-2.0
// Areas: what a space is made of. What is mapped in them is in vm_pages.cpp, sparse.cpp and vm_ram.cpp.
#include "harena/vm/vm_space.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/page/unmapped_cache.hpp"
#include "harena/vm/reservation.hpp"
#include "harena/vm/vmallocinfo.hpp"

namespace harena {

namespace {

constexpr std::uint64_t k_max_bytes = 64 * 1024 * k_gib;
// What may wait to be unmapped: about what unmapping together saves, and not more than is worth it.
constexpr std::size_t k_max_unpurged = 64;
constexpr std::uint64_t k_max_unpurged_pages = 8192;
constexpr int k_reservation = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

}  // namespace

Result<std::unique_ptr<VmSpace>> VmSpace::create(const VmSpaceOptions& options) {
    if (options.bytes == 0 || options.bytes > k_max_bytes)
        return fail(EINVAL, "a space of {} bytes: it takes 1 to {}", options.bytes, k_max_bytes);
    if (options.pool != nullptr) {
        const auto hugetlb = os::is_hugetlb(options.pool->fd());
        if (!hugetlb) return os::fail_with(hugetlb.error(), "the pool's file cannot be looked at");
        if (*hugetlb) return fail(ENOTSUP, "the pages of a hugetlb pool cannot be mapped one by one");
    }
    const std::uint64_t bytes = align_up(options.bytes, k_huge_page_size);
    const auto reserved = os::mmap(nullptr, bytes, PROT_NONE, k_reservation, -1, 0);
    if (!reserved) return reservation::fail_to_reserve(reserved.error(), bytes, "anywhere");
    auto* const base = static_cast<std::byte*>(*reserved);
    std::unique_ptr<VmSpace> space;
    try {
        space.reset(new VmSpace{base, bytes, options});
    } catch (const std::bad_alloc&) {
        (void)os::munmap(base, bytes);
        return fail(ENOMEM, "no memory for the description of a space of {} bytes", bytes);
    }
    HARENA_CHECK_OK(space->spare_.make());
    HARENA_TRY(space->records_, AreaTable::create(base, bytes, options.max_areas));
    HARENA_TRY(NotInherited not_inherited, NotInherited::of(base, bytes));
    space->not_inherited_.emplace(std::move(not_inherited));
    // What is mapped here changes all the time. A child has the reservation over it in any case; advice for each
    // mapping would cost a call more each, and keep those apart that could be one.
    (void)os::madvise(base, bytes, MADV_DOFORK);
    if (options.pool != nullptr) {
        HARENA_CHECK_OK(options.pool->unmapped().alias_holders().add(*space));
        space->pool_ = options.pool;
    }
    return space;
}

VmSpace::VmSpace(std::byte* base, std::uint64_t bytes, const VmSpaceOptions& options)
    : base_{base},
      bytes_{bytes},
      max_vmas_{options.max_vmas},
      index_{bytes / k_page_size},
      free_{bytes / k_page_size},
      areas_(1) {}

VmSpace::~VmSpace() {
    not_inherited_.reset();
    if (fork_guard_.owner_dead()) {
        (void)os::munmap(base_, bytes_);
        return;
    }
    {
        // What waits goes before the pool ceases to ask for it: until then, a page that leaves the direct map waits
        // here.
        const std::lock_guard lock{mutex_};
        (void)os::munmap(base_, bytes_);
        for (const VmArea& area : areas_) free_blocks(area.blocks_);
        for (const Unpurged& range : unpurged_) free_blocks(range.blocks);
        unpurged_.clear();
        ram_.clear();
    }
    if (pool_ != nullptr) pool_->unmapped().alias_holders().remove(*this);
}

bool VmSpace::contains(const void* address) const noexcept {
    return static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - base_) < bytes_;
}

Result<VmArea*> VmSpace::get_vm_area(std::uint64_t bytes, VmKind kind, const VmAreaOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    if (bytes == 0) return fail(EINVAL, "an area of 0 bytes");
    if (bytes > bytes_) return fail(ENOMEM, "an area of {} bytes in a space of {}", bytes, bytes_);
    if (kind == VmKind::ram) return fail(EINVAL, "areas of this kind are made by vm_map_ram");
    if (kind == VmKind::backed) return fail(EINVAL, "areas of this kind are windows: take_window");
    if (kind == VmKind::sparse && options.no_guard) return fail(EINVAL, "a sparse area needs a guard");
    const std::lock_guard lock{mutex_};
    return make_area(pages_for(bytes).value(), kind, options);
}

Result<VmArea*> VmSpace::make_area(std::uint64_t pages, VmKind kind, const VmAreaOptions& options,
                                   std::uint64_t file_offset) {
    const std::uint64_t guard_pages = options.no_guard ? 0 : 1;
    HARENA_TRY(const VmPage first, take_range(pages + guard_pages));
    const VmPage end{first.value() + pages + guard_pages};
    const bool comes_and_goes = kind == VmKind::sparse || kind == VmKind::ram;
    const auto number = prepare_area(first, end, comes_and_goes ? pages : 0);
    if (!number) {
        free_.give(first, pages + guard_pages);
        return pass_on(number.error());
    }
    VmArea& area = areas_[*number];
    area.begin_ = address_of(first);
    area.pages_ = pages;
    area.guard_pages_ = guard_pages;
    area.kind_ = kind;
    area.number_ = *number;
    AreaTable::Entry& entry = (*records_)[*number];
    entry.pages.store(0, std::memory_order_relaxed);
    entry.origin.store(AreaTable::origin_of(options.name, options.where));
    entry.record.store({.begin = reinterpret_cast<std::uint64_t>(area.begin_),
                        .bytes = area.bytes(),
                        .guard_bytes = guard_pages * k_page_size,
                        .file_offset = file_offset,
                        .state = AreaState::live,
                        .kind = kind,
                        .user = options.user,
                        .exec = options.exec});
    index_.set(first, end, *number);  // from now on it can be found
    ++statistics_.areas;
    return &area;
}

Result<std::uint32_t> VmSpace::prepare_area(VmPage first, VmPage end, std::uint64_t table_pages) {
    HARENA_TRY(const std::uint32_t number, records_->take());
    Result<void> prepared = index_.prepare(first, end);
    try {
        if (number >= areas_.size()) areas_.resize(number + 1);
        // So that `retire` needs no memory.
        if (unpurged_.capacity() < areas_.size()) unpurged_.reserve(2 * areas_.size());
        if (prepared) areas_[number].table_.assign(table_pages, 0);
    } catch (const std::bad_alloc&) {
        prepared = fail(ENOMEM, "no memory for the description of an area of {} pages", end.value() - first.value());
    }
    if (prepared) return number;
    records_->give(number);
    return pass_on(prepared.error());
}

Result<VmPage> VmSpace::take_range(std::uint64_t pages) {
    Result<void> purged;
    try {
        if (const auto first = free_.take(pages)) return *first;
        // What waits to be unmapped may make it.
        purged = purge_locked();
        if (const auto first = free_.take(pages)) return *first;
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the free ranges of the address space");
    }
    HARENA_CHECK_OK(std::move(purged));
    return fail(ENOMEM, "the space has no {} free adjoining bytes; the largest free range has {}", pages * k_page_size,
                free_.largest() * k_page_size);
}

std::optional<AreaRecord> VmSpace::find_vm_area(const void* address) const noexcept {
    if (fork_guard_.owner_dead()) return std::nullopt;
    if (!contains(address)) return find_window(address);
    const AreaIndex::Number number = index_.find(page_of(address));
    if (number == AreaIndex::k_none) return std::nullopt;
    // A record that is being written is of an area that comes or goes: it is changed only while nobody finds it.
    const auto record = (*records_)[number].record.try_load();
    if (!record || record->state != AreaState::live) return std::nullopt;
    // Between the two loads, the number may have become another area's.
    const auto at = reinterpret_cast<std::uint64_t>(address);
    if (at - record->begin >= record->bytes + record->guard_bytes) return std::nullopt;
    return record;
}

VmArea* VmSpace::area_at(const void* address, std::initializer_list<VmKind> kinds) noexcept {
    if (!contains(address)) return nullptr;
    const AreaIndex::Number number = index_.find(page_of(address));
    if (number == AreaIndex::k_none) return nullptr;
    VmArea& area = areas_[number];
    return area.begin_ == address && std::ranges::find(kinds, area.kind_) != kinds.end() ? &area : nullptr;
}

Result<void> VmSpace::free_vm_area(VmArea* area) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    if (!owns(area)) return fail(EINVAL, "not an area of this space");
    return retire(*area);
}

bool VmSpace::owns(const VmArea* area) const noexcept {
    // The number of one that was freed is 0, and that of another space's is another's here.
    return area != nullptr && area->number_ != 0 && area->number_ < areas_.size() && &areas_[area->number_] == area;
}

Result<VmAreaInfo> VmSpace::remove_vm_area(const void* address) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    VmArea* const area =
        area_at(address, {VmKind::alloc, VmKind::map, VmKind::ioremap, VmKind::sparse, VmKind::backed});
    if (area == nullptr) return fail(ENOENT, "no area begins at {}", fmt::ptr(address));
    try {
        VmAreaInfo info = info_of(area->number_).value_or(VmAreaInfo{});
        HARENA_CHECK_OK(retire(*area));
        return info;
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory to say what the area at {} was", fmt::ptr(address));
    }
}

Result<void> VmSpace::free_at(const void* address, std::initializer_list<VmKind> kinds, std::string_view what) {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    VmArea* const area = area_at(address, kinds);
    if (area == nullptr) return fail(ENOENT, "{} does not begin at {}", what, fmt::ptr(address));
    return retire(*area);
}

Result<void> VmSpace::retire(VmArea& area) {
    const bool mapped = area.stale_ || (*records_)[area.number_].pages.load(std::memory_order_relaxed) != 0;
    // What has no other address shall have none at all when this returns.
    if (mapped && area.has_unmapped_) HARENA_CHECK_OK(map_nothing(page_of(area.begin_), area.pages_));
    take_leave(area, mapped && !area.has_unmapped_);
    // A failed purge is counted, and tried again with the next one.
    if (unpurged_.size() > k_max_unpurged || unpurged_pages_ > k_max_unpurged_pages) (void)purge_locked();
    return {};
}

void VmSpace::abandon(VmArea& area) noexcept {
    if (!retire(area)) take_leave(area, true);
}

void VmSpace::take_leave(VmArea& area, bool waits) noexcept {
    Unpurged range{.number = area.number_,
                   .first = page_of(area.begin_),
                   .pages = area.pages_ + area.guard_pages_,
                   .edges = area.edges_,
                   .blocks = std::move(area.blocks_)};
    index_.set(range.first, VmPage{range.first.value() + range.pages}, AreaIndex::k_none);
    --statistics_.areas;
    AreaTable::Entry& entry = (*records_)[range.number];
    auto record = entry.record.try_load().value_or(AreaRecord{});
    record.state = AreaState::unpurged;
    entry.record.store(record);
    area.clear();
    if (!waits) return forget(range);
    unpurged_pages_ += range.pages;
    unpurged_.push_back(std::move(range));  // has room
}

void VmSpace::forget(const Unpurged& range) noexcept {
    free_blocks(range.blocks);
    edges_ -= range.edges;
    records_->give(range.number);
    free_.give(range.first, range.pages);
}

Result<void> VmSpace::purge() {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    const std::lock_guard lock{mutex_};
    return purge_locked();
}

Result<void> VmSpace::drop_aliases() { return purge(); }

Result<void> VmSpace::purge_locked() {
    Result<void> result = purge_ram();
    if (auto gone = unmap_stale_areas(); !gone && result) result = std::move(gone);
    if (!result) ++statistics_.purge_failures;
    if (unpurged_.empty()) return result;
    std::ranges::sort(unpurged_, {}, [](const Unpurged& range) { return range.first; });
    ++statistics_.purges;
    std::size_t kept = 0;
    for (std::size_t begin = 0; begin < unpurged_.size();) {
        // Ranges that adjoin are unmapped in one step.
        std::size_t end = begin + 1;
        std::uint64_t pages = unpurged_[begin].pages;
        while (end < unpurged_.size() && unpurged_[end].first.value() == unpurged_[begin].first.value() + pages)
            pages += unpurged_[end++].pages;
        auto gone = map_nothing(unpurged_[begin].first, pages);
        for (; begin < end; ++begin) {
            Unpurged& range = unpurged_[begin];
            if (gone) {
                unpurged_pages_ -= range.pages;
                forget(range);
            } else {
                if (kept != begin) unpurged_[kept] = std::move(range);
                ++kept;
            }
        }
        if (!gone) {
            ++statistics_.purge_failures;
            result = std::move(gone);
        }
    }
    unpurged_.resize(kept);
    return result;
}

Result<void> VmSpace::map_nothing(VmPage first, std::uint64_t pages) {
    std::byte* const at = address_of(first);
    const auto map = [&] { return os::mmap(at, pages * k_page_size, PROT_NONE, k_reservation | MAP_FIXED, -1, 0); };
    auto mapped = map();
    if (!mapped && spare_.give_up()) {
        mapped = map();
        (void)spare_.make();  // or before the next mapping is made
    }
    if (!mapped) return map_error(mapped.error(), "cannot unmap {} pages at {}", pages, fmt::ptr(at));
    return {};
}

Result<void> VmSpace::unmap_gaps(const VmArea& area, std::uint64_t first, std::uint64_t end) {
    const auto& table = area.table_;
    for (std::uint64_t page = first; page < end; ++page) {
        if (table[page] != 0) continue;
        const std::uint64_t begin = page;
        while (page < end && table[page] == 0) ++page;
        HARENA_CHECK_OK(map_nothing(page_of(area.begin_ + begin * k_page_size), page - begin));
    }
    return {};
}

Result<void> VmSpace::unmap_stale_areas() {
    if (!stale_areas_) return {};
    for (VmArea& area : areas_) {
        if (!area.stale_ || area.kind_ != VmKind::sparse) continue;
        HARENA_CHECK_OK(unmap_gaps(area, 0, area.pages_));
        area.stale_ = false;
    }
    stale_areas_ = false;
    return {};
}

std::uint64_t VmSpace::edges_of(std::span<const std::uint32_t> table, std::uint64_t first,
                                std::uint64_t count) noexcept {
    std::uint64_t edges = 0;
    for (std::uint64_t i = first; i <= first + count; ++i) {
        const std::uint32_t before = i == 0 ? 0 : table[i - 1];
        const std::uint32_t here = i == table.size() ? 0 : table[i];
        if (here != (before == 0 ? 0 : before + 1)) ++edges;
    }
    return edges;
}

Result<void> VmSpace::make_room(std::uint64_t more) {
    // The space itself is one mapping.
    const auto too_many = [&] { return more > 0 && edges_ + more + 1 > max_vmas_; };
    if (too_many()) (void)purge_locked();
    if (too_many())
        return fail(ENOMEM,
                    "the space has {} mappings and this needs {} more: its part of those that the process may have is "
                    "{} (max_vmas)",
                    edges_ + 1, more, max_vmas_);
    return {};
}

Result<void> VmSpace::add_edges(VmArea& area, std::uint64_t more) {
    HARENA_CHECK_OK(make_room(more));
    area.edges_ += more;
    edges_ += more;
    return {};
}

void VmSpace::remove_edges(VmArea& area, std::uint64_t fewer) noexcept {
    area.edges_ -= fewer;
    edges_ -= fewer;
}

std::optional<VmAreaInfo> VmSpace::info_of(std::uint32_t number) const {
    const AreaTable::Entry& entry = (*records_)[number];
    const auto record = entry.record.try_load();
    if (!record || record->state == AreaState::none) return std::nullopt;
    return AreaTable::info_of(*record, entry.origin.try_load().value_or(AreaOrigin{}), entry.pages.load());
}

Result<std::vector<VmAreaInfo>> VmSpace::areas() const try {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    std::vector<VmAreaInfo> all;
    const std::lock_guard lock{mutex_};
    count_window_pages();
    for (std::uint32_t number = 1; number < records_->end(); ++number)
        if (auto info = info_of(number)) all.push_back(*std::move(info));
    std::ranges::sort(all, {}, &VmAreaInfo::begin);
    return all;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for a list of the areas");
}

Result<std::string> VmSpace::vmallocinfo() const try {
    HARENA_CHECK_OK(fork_guard_.check("the address space"));
    std::vector<std::pair<VmAreaInfo, std::vector<std::uint64_t>>> all;
    {
        const std::lock_guard lock{mutex_};
        count_window_pages();
        for (std::uint32_t number = 1; number < records_->end(); ++number) {
            auto info = info_of(number);
            if (!info) continue;
            std::vector<std::uint64_t> nodes;
            for (const std::uint32_t page : areas_[number].table_) {
                if (page == 0) continue;
                const unsigned node = pool_->node(Pfn{page - 1});
                if (node >= nodes.size()) nodes.resize(node + 1);
                ++nodes[node];
            }
            all.emplace_back(*std::move(info), std::move(nodes));
        }
    }
    std::ranges::sort(all, {}, [](const auto& one) { return one.first.begin; });
    std::string text;
    for (const auto& [info, nodes] : all) text += to_line(info, nodes);
    return text;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the text of the areas");
}

VmStatistics VmSpace::statistics() const {
    if (fork_guard_.owner_dead()) return {};
    const std::lock_guard lock{mutex_};
    VmStatistics out = statistics_;
    out.unpurged = unpurged_.size();
    out.unpurged_bytes = unpurged_pages_ * k_page_size;
    out.free_bytes = free_.free_pages() * k_page_size;
    out.largest_free_bytes = free_.largest() * k_page_size;
    out.vmas = edges_ + 1;
    return out;
}

}  // namespace harena
