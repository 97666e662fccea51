// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/process_view.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "harena/base/os/file.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/page_math.hpp"
#include "harena/vm/area_table.hpp"
#include "tools/harena/area_file.hpp"
#include "tools/harena/proc_maps.hpp"

namespace harena::tool {

namespace {

constexpr std::string_view k_prefix = "/memfd:harena:";
constexpr std::string_view k_suffix = " (deleted)";
constexpr std::string_view k_areas = "areas";
constexpr std::string_view k_pages = "pages";
// More than a machine's default of mappings; what is beyond is left out.
constexpr std::size_t k_max_mappings = std::size_t{1} << 18;
constexpr std::size_t k_max_path = 512;
constexpr std::size_t k_max_spaces = 256;
constexpr std::size_t k_max_arenas = 4096;
constexpr std::size_t k_max_grids = 64;  // with all groups of pages, for a picture
constexpr std::size_t k_max_pools = 256;
constexpr std::size_t k_max_huge_ranges = 4096;

/// A file, by device and inode.
using FileKey = std::pair<std::uint64_t, std::uint64_t>;
FileKey key_of(const Mapping& mapping) { return {mapping.device, mapping.inode}; }

/// The name of a file of harena ("areas", "pages", or an arena's).
std::optional<std::string_view> harena_name(std::string_view path) {
    if (!path.starts_with(k_prefix)) return std::nullopt;
    path.remove_prefix(k_prefix.size());
    if (path.ends_with(k_suffix)) path.remove_suffix(k_suffix.size());
    return path;
}

std::string one_line_of(const std::string& path) {
    const auto bytes = os::read_file(path, 64 * k_kib);
    if (!bytes) return {};
    std::string text{reinterpret_cast<const char*>(bytes->data()), bytes->size()};
    if (text.ends_with('\n')) text.pop_back();
    return text;
}

std::unexpected<Error> refused(os::SysError error, const std::string& pid, std::string_view what) {
    if (error.code == ENOENT || error.code == ESRCH) return fail(ESRCH, "no process {}", pid);
    if (error.code == EACCES || error.code == EPERM)
        return fail(error.code,
                    "process {} may not be looked at ({}: {}): be its user, or root, or have CAP_SYS_PTRACE; and the "
                    "process must be one that may be dumped",
                    pid, what, os::describe(error));
    return os::fail_with(error, fmt::format("process {}: {}", pid, what));
}

bool inside(const Mapping& mapping, std::uint64_t begin, std::uint64_t bytes) noexcept {
    return mapping.begin - begin < bytes && mapping.end - begin <= bytes;
}

/// Puts the view together.
class Look {
public:
    Look(std::string pid, std::string folder) : folder_{std::move(folder)} { view_.pid = std::move(pid); }

    Result<ProcessView> take() {
        view_.command = one_line_of(folder_ + "/comm");
        program_ = link(folder_ + "/exe").substr(0, k_max_path);
        if (const auto read = for_each_mapping(folder_, [this](const Mapping& mapping) { keep(mapping); }); !read)
            return refused(read.error(), view_.pid, "its mappings");
        if (!view_.uses_harena) return std::move(view_);
        HARENA_CHECK_OK(find_files());
        if (auto pagemap = os::open_for_reading(folder_ + "/pagemap")) pagemap_ = *std::move(pagemap);
        read_tables();
        std::ranges::sort(view_.areas, {}, &VmAreaInfo::begin);
        find_arenas();
        for (auto& [key, why] : unreadable_) view_.unreadable.push_back(std::move(why));
        find_pools();
        group_others();
        return std::move(view_);
    }

private:
    void keep(const Mapping& mapping) {
        view_.uses_harena |= mapping.shared && harena_name(mapping.path);
        if (mappings_.size() == k_max_mappings) {
            ++view_.left_out;
            return;
        }
        mappings_.push_back(mapping);
        mappings_.back().path = mapping.path.substr(0, k_max_path);
    }

    static std::string link(const std::string& path) {
        std::error_code error;
        return std::filesystem::read_symlink(path, error).string();
    }

    /// Which descriptors of the process are the mapped files of harena.
    Result<void> find_files() {
        std::map<FileKey, bool> wanted;
        for (const Mapping& mapping : mappings_)
            if (mapping.shared && harena_name(mapping.path)) wanted[key_of(mapping)] = true;
        std::error_code error;
        std::filesystem::directory_iterator entry{folder_ + "/fd", error};
        for (; !error && entry != std::filesystem::directory_iterator{} && files_.size() < wanted.size();
             entry.increment(error)) {
            const std::string path = entry->path().string();
            if (!harena_name(link(path))) continue;
            const auto facts = os::facts_of(path);
            if (!facts || !facts->regular) continue;
            const FileKey key{facts->device, facts->inode};
            if (wanted.contains(key)) files_.try_emplace(key, path);
        }
        if (error) return refused({error.value()}, view_.pid, "its open files");
        return {};
    }

    /// The file of a mapping, if the process still has it open.
    [[nodiscard]] Result<os::FileDescriptor> open(const FileKey& key) const {
        const auto path = files_.find(key);
        if (path == files_.end()) return fail(ENOENT, "its file is not open any more");
        auto file = os::open_for_reading(path->second);
        if (!file) return os::fail_with(file.error(), "its file cannot be opened");
        const auto facts = os::facts_of(file->get());
        if (!facts || FileKey{facts->device, facts->inode} != key || !facts->regular)
            return fail(ENOENT, "its file is not open any more");
        return *std::move(file);
    }

    // A child after fork has its parent's descriptors, but not the mappings: only what is mapped is of this process.
    void read_tables() {
        AreaBudget budget;
        std::map<FileKey, bool> seen;
        for (const Mapping& mapping : mappings_) {
            if (!mapping.shared || harena_name(mapping.path) != k_areas) continue;
            if (!seen.try_emplace(key_of(mapping), true).second) continue;
            if (view_.spaces.size() == k_max_spaces || unreadable_.size() == k_max_spaces) {
                ++view_.left_out;
                continue;
            }
            const auto file = open(key_of(mapping));
            auto table = file ? read_area_file(file->get(), budget) : pass_on(file.error());
            if (!table) {
                unreadable_.try_emplace(key_of(mapping), table.error().message());
                continue;
            }
            view_.spaces.push_back({.base = table->base, .bytes = table->bytes});
            view_.damaged += table->damaged;
            view_.left_out += table->left_out;
            std::ranges::move(table->areas, std::back_inserter(view_.areas));
        }
        std::ranges::sort(view_.spaces, {}, &SpaceView::base);
        // No two have the same addresses; and what is in one is drawn in one only.
        std::uint64_t end_of_last = 0;
        view_.damaged += std::erase_if(view_.spaces, [&](const SpaceView& space) {
            const bool overlaps = space.base < end_of_last;
            if (!overlaps) end_of_last = space.base + space.bytes;
            return overlaps;
        });
    }

    // An arena is what is mapped in an area of the backed form.
    void find_arenas() {
        std::uint64_t end_of_last = 0;
        for (VmAreaInfo& area : view_.areas) {
            if (area.kind != VmKind::backed || area.unpurged) continue;
            const auto window = reinterpret_cast<std::uint64_t>(area.begin);
            if (window < end_of_last) {  // cannot be; and each mapping is looked at for one window only
                ++view_.damaged;
                continue;
            }
            end_of_last = window + area.bytes;
            const auto first = std::ranges::lower_bound(mappings_, window, {}, &Mapping::begin);
            if (first == mappings_.end() || !inside(*first, window, area.bytes)) continue;
            // Reservations may come before it.
            auto mapping = first;
            while (mapping != mappings_.end() && inside(*mapping, window, area.bytes) &&
                   !(mapping->shared && harena_name(mapping->path)))
                ++mapping;
            if (mapping == mappings_.end() || !inside(*mapping, window, area.bytes)) continue;
            if (view_.arenas.size() == k_max_arenas) {
                ++view_.left_out;
                continue;
            }
            view_.arenas.push_back(look_at_arena(*mapping, window, area));
            arena_files_.insert(key_of(*mapping));
            unreadable_.erase(key_of(*mapping));  // an arena of that name
        }
    }

    ArenaView look_at_arena(const Mapping& mapping, std::uint64_t window, VmAreaInfo& area) {
        ArenaView arena{.name = std::string{harena_name(mapping.path).value_or("")},
                        .address = mapping.begin,
                        .window = window,
                        .grid = {},
                        .error = {}};
        for (auto part = std::ranges::lower_bound(mappings_, window, {}, &Mapping::begin);
             part != mappings_.end() && inside(*part, window, area.bytes); ++part)
            if (key_of(*part) == key_of(mapping)) arena.huge_bytes += part->huge_bytes;
        const auto file = open(key_of(mapping));
        const auto pages_fit = window + area.bytes - std::min(arena.address, window + area.bytes);
        auto grid = file ? read_page_grid(file->get(), huge_pages(arena, pages_fit)) : pass_on(file.error());
        if (!grid) {
            arena.error = grid.error().message();
            return arena;
        }
        area.pages =
            (*grid).total[PageClass::allocated] + grid->total[PageClass::huge] + grid->total[PageClass::recycled];
        if (view_.arenas.size() >= k_max_grids) grid->groups = {};
        arena.grid = *std::move(grid);
        return arena;
    }

    /// Which pages of an arena are on large entries. None if the kernel does not say.
    [[nodiscard]] std::vector<os::AddressRange> huge_pages(const ArenaView& arena, std::uint64_t bytes) const {
        std::vector<os::AddressRange> all;
        if (pagemap_.get() < 0 || arena.huge_bytes == 0) return all;
        std::array<os::AddressRange, 64> found;
        const std::uint64_t end = arena.address + bytes;
        for (std::uint64_t at = arena.address; at < end && all.size() < k_max_huge_ranges;) {
            const auto scan = os::scan_huge_pages(pagemap_.get(), at, end, found);
            if (!scan || scan->next <= at) break;
            for (std::size_t i = 0; i < scan->ranges; ++i)
                all.push_back({.begin = (found[i].begin - arena.address) / k_page_size,
                               .end = (found[i].end - arena.address) / k_page_size});
            at = scan->next;
        }
        return all;
    }

    [[nodiscard]] bool in_a_space(const Mapping& mapping) const noexcept {
        return std::ranges::any_of(view_.spaces,
                                   [&](const SpaceView& space) { return inside(mapping, space.base, space.bytes); });
    }

    // The direct map of a pool is what is mapped of its file outside of spaces.
    void find_pools() {
        std::map<FileKey, std::size_t> numbers;
        for (const Mapping& mapping : mappings_) {
            if (!mapping.shared || harena_name(mapping.path) != k_pages || in_a_space(mapping)) continue;
            if (arena_files_.contains(key_of(mapping))) continue;
            const auto [number, is_new] = numbers.try_emplace(key_of(mapping), view_.pools.size());
            if (is_new) {
                if (view_.pools.size() == k_max_pools) {
                    numbers.erase(number);
                    ++view_.left_out;
                    continue;
                }
                PoolView pool{.address = mapping.begin};
                const auto path = files_.find(key_of(mapping));
                const auto facts = path == files_.end() ? os::sys_fail(ENOENT) : os::facts_of(path->second);
                if (facts) {
                    pool.capacity_bytes = facts->bytes;
                    pool.bytes_in_use = facts->bytes_in_use;
                }
                view_.pools.push_back(pool);
            }
            PoolView& pool = view_.pools[number->second];
            pool.end = mapping.end;
            pool.direct_map_bytes += mapping.bytes();
            pool.huge_bytes += mapping.huge_bytes;
        }
    }

    [[nodiscard]] bool in_a_window(const Mapping& mapping) const noexcept {
        // The last window that begins at or before the mapping.
        const auto after =
            std::ranges::upper_bound(view_.areas, reinterpret_cast<std::byte*>(mapping.begin), {}, &VmAreaInfo::begin);
        if (after == view_.areas.begin()) return false;
        const VmAreaInfo& area = *std::prev(after);
        return area.kind == VmKind::backed && inside(mapping, reinterpret_cast<std::uint64_t>(area.begin), area.bytes);
    }

    // What lies between two things of harena is one group, and what is far apart are two.
    void group_others() {
        constexpr std::uint64_t k_far = 64 * k_gib;
        std::vector<std::uint64_t> ours;  // begins of what is harena's
        ours.reserve(view_.spaces.size() + view_.arenas.size() + view_.pools.size());
        for (const SpaceView& space : view_.spaces) ours.push_back(space.base);
        for (const ArenaView& arena : view_.arenas) ours.push_back(arena.window);
        for (const PoolView& pool : view_.pools) ours.push_back(pool.address);
        std::ranges::sort(ours);
        for (const Mapping& mapping : mappings_) {
            if (harena_name(mapping.path) || !mapping.accessible || in_a_space(mapping) || in_a_window(mapping))
                continue;
            if (mapping.path == "[vsyscall]") continue;
            if (std::ranges::any_of(view_.pools, [&](const PoolView& pool) {
                    return inside(mapping, pool.address, pool.end - pool.address);
                }))
                continue;
            const bool joins = !view_.others.empty() && mapping.begin - view_.others.back().end < k_far &&
                               std::ranges::upper_bound(ours, view_.others.back().end) ==
                                   std::ranges::upper_bound(ours, mapping.begin);
            if (!joins) view_.others.push_back({.begin = mapping.begin});
            OtherMappings& group = view_.others.back();
            group.end = mapping.end;
            group.bytes += mapping.bytes();
            ++group.count;
            group.program |= !program_.empty() && mapping.path == program_;
            group.heap |= mapping.path == "[heap]";
            group.stack |= mapping.path == "[stack]";
            group.files |= mapping.path.starts_with('/') && mapping.path != program_;
        }
    }

    std::string folder_;
    std::string program_;
    std::vector<Mapping> mappings_;
    std::map<FileKey, std::string> files_;  // paths of descriptors
    std::set<FileKey> arena_files_;
    std::map<FileKey, std::string> unreadable_;  // tables of areas, and why
    os::FileDescriptor pagemap_;
    ProcessView view_;
};

}  // namespace

Result<ProcessView> look_at_process(const std::string& pid) {
    if (pid == "self") return Look{std::to_string(os::process_id()), "/proc/self"}.take();
    int number = 0;
    const auto [end, error] = std::from_chars(pid.data(), pid.data() + pid.size(), number);
    if (error != std::errc{} || end != pid.data() + pid.size() || number <= 0)
        return fail(EINVAL, "'{}' is neither a process ID nor 'self'", pid);
    return Look{std::to_string(number), fmt::format("/proc/{}", number)}.take();
}

}  // namespace harena::tool
