// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/inspect.hpp"

#include <cerrno>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "harena/base/os/file.hpp"
#include "harena/vm/vmallocinfo.hpp"
#include "tools/harena/output.hpp"
#include "tools/harena/picture.hpp"
#include "tools/harena/process_view.hpp"

namespace harena::tool {

namespace {

std::uint64_t allocated(const PageTally& tally) noexcept {
    return tally[PageClass::allocated] + tally[PageClass::huge];
}

void print_arena(const ArenaView& arena) {
    fmt::print("  {}  {:#018x}", escaped(arena.name), arena.address);
    if (!arena.grid) {
        fmt::print("  {}\n", escaped(arena.error));
        return;
    }
    const PageTally& total = arena.grid->total;
    fmt::print("  {} pages: {} allocated, {} reserved, {} recycled, {} free", arena.grid->pages, allocated(total),
               total[PageClass::reserved], total[PageClass::recycled], total[PageClass::free]);
    if (total[PageClass::unknown] != 0) fmt::print(", {} in no known state", total[PageClass::unknown]);
    fmt::print("; {} on 2 MiB entries\n", human_bytes(arena.huge_bytes));
}

void print_pool(const PoolView& pool) {
    fmt::print("  {:#018x}  ", pool.address);
    if (pool.capacity_bytes != 0)
        fmt::print("{}: {} in use, ", human_bytes(pool.capacity_bytes), human_bytes(pool.bytes_in_use));
    fmt::print("{} in the direct map, {} on 2 MiB entries\n", human_bytes(pool.direct_map_bytes),
               human_bytes(pool.huge_bytes));
}

void print_text(const ProcessView& view) {
    fmt::print("process {} ({})\n", view.pid, escaped(view.command));
    if (view.areas.empty()) fmt::print("no areas\n");
    for (const VmAreaInfo& area : view.areas) {
        std::string line = to_line(area);
        line.pop_back();
        fmt::print("{}\n", escaped(line));
    }
    if (!view.arenas.empty()) fmt::print("\narenas\n");
    for (const ArenaView& arena : view.arenas) print_arena(arena);
    if (!view.pools.empty()) fmt::print("\npools\n");
    for (const PoolView& pool : view.pools) print_pool(pool);
    for (const std::string& why : view.unreadable) fmt::print("! areas that cannot be listed: {}\n", escaped(why));
    if (view.damaged != 0) fmt::print("! {} entries of its areas cannot be true and are not shown\n", view.damaged);
    if (view.left_out != 0) fmt::print("! {} things more than are listed\n", view.left_out);
}

std::string hex(std::uint64_t number) { return fmt::format("{:#x}", number); }

Json to_json(const ArenaView& arena) {
    Json json{{"name", arena.name},
              {"address", hex(arena.address)},
              {"window", hex(arena.window)},
              {"huge_bytes", arena.huge_bytes}};
    if (!arena.grid) {
        json["error"] = arena.error;
        return json;
    }
    const PageTally& total = arena.grid->total;
    json["pages"] = arena.grid->pages;
    json["allocated"] = allocated(total);
    json["reserved"] = total[PageClass::reserved];
    json["recycled"] = total[PageClass::recycled];
    json["free"] = total[PageClass::free];
    json["unknown"] = total[PageClass::unknown];
    json["on_huge_pages"] = total[PageClass::huge];
    return json;
}

Json to_json(const ProcessView& view) {
    Json json{{"pid", view.pid},         {"command", view.command},   {"spaces", Json::array()},
              {"areas", Json::array()},  {"arenas", Json::array()},   {"pools", Json::array()},
              {"damaged", view.damaged}, {"left_out", view.left_out}, {"unreadable", view.unreadable}};
    for (const SpaceView& space : view.spaces)
        json["spaces"].push_back({{"address", hex(space.base)}, {"bytes", space.bytes}});
    for (const VmAreaInfo& area : view.areas)
        json["areas"].push_back({{"address", hex(reinterpret_cast<std::uint64_t>(area.begin))},
                                 {"bytes", area.bytes},
                                 {"guard_below", area.guard_below},
                                 {"guard_above", area.guard_bytes},
                                 {"kind", name_of(area.kind)},
                                 {"unpurged", area.unpurged},
                                 {"user", area.user},
                                 {"exec", area.exec},
                                 {"pages", area.pages},
                                 {"file_offset", area.file_offset},
                                 {"where", area.where},
                                 {"name", area.name}});
    for (const ArenaView& arena : view.arenas) json["arenas"].push_back(to_json(arena));
    for (const PoolView& pool : view.pools)
        json["pools"].push_back({{"address", hex(pool.address)},
                                 {"capacity_bytes", pool.capacity_bytes},
                                 {"bytes_in_use", pool.bytes_in_use},
                                 {"direct_map_bytes", pool.direct_map_bytes},
                                 {"huge_bytes", pool.huge_bytes}});
    return json;
}

}  // namespace

int run_inspect(const InspectCommand& command) {
    const Result<ProcessView> view = look_at_process(command.pid);
    if (!view) return report(k_bad_input, view.error());
    if (!view->uses_harena && command.pid != "self")
        return report(k_bad_input,
                      {ENOENT, fmt::format("process {} ({}) does not use harena: it has no area, arena or pool mapped",
                                           view->pid, view->command)});
    if (!command.svg_file.empty()) {
        const std::string picture = picture_of(*view);
        const auto written = os::write_file(command.svg_file, std::as_bytes(std::span{picture.data(), picture.size()}));
        if (!written)
            return report(k_bad_input, {written.error().code,
                                        fmt::format("{}: {}", command.svg_file, os::describe(written.error()))});
    }
    if (command.json)
        print_json(to_json(*view));
    else
        print_text(*view);
    return k_ran;
}

}  // namespace harena::tool
