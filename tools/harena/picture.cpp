// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/picture.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "harena/base/page_math.hpp"
#include "harena/vm/vmallocinfo.hpp"
#include "tools/harena/svg.hpp"

namespace harena::tool {

namespace {

constexpr double k_width = 1340;
constexpr double k_top = 92;
constexpr double k_margin = 28;

constexpr std::string_view k_ink = "#1a1a1a";
constexpr std::string_view k_faint = "#5f6b76";
constexpr std::string_view k_line = "#9aa5b1";

// --- (a) the address space
// --------------------------------------------------------------------------------------------

// Tints and shades that people with any colour vision tell apart by lightness too; the words beside say the kind.
constexpr std::string_view k_area_tint = "#d6e6f2";
constexpr std::string_view k_area_full = "#0072b2";
constexpr std::string_view k_window_tint = "#d4ebe3";
constexpr std::string_view k_window_full = "#00805e";
constexpr std::string_view k_pool_tint = "#f8e3c0";
constexpr std::string_view k_pool_full = "#d98c00";
constexpr std::string_view k_other = "#c3cad1";
constexpr std::string_view k_purged = "#eceff1";

constexpr std::size_t k_max_areas_of_space = 24;
constexpr std::size_t k_max_things = 48;

/// A block of the bar with its words.
struct Block {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::string words = {};
    std::string more = {};  // fainter, after them
    std::string_view tint = k_area_tint;
    std::string_view full = k_area_full;
    double filled = 0;          // how much of it has memory, 0 to 1
    std::uint64_t areas = 0;    // of a space: blocks that follow, in it
    std::uint64_t bundled = 0;  // more things than are drawn, in one block
};

std::string_view word_of(const VmAreaInfo& area) noexcept {
    if (area.unpurged) return "waits to be unmapped";
    return area.kind == VmKind::backed ? "window" : name_of(area.kind);
}

/// "1 page", "2 pages".
std::string counted(std::uint64_t number, std::string_view what) {
    return fmt::format("{} {}{}", grouped(number), what, number == 1 ? "" : "s");
}

double share(std::uint64_t part, std::uint64_t whole) noexcept {
    return whole == 0 ? 0 : std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
}

std::uint64_t end_of(const VmAreaInfo& area) noexcept {
    return reinterpret_cast<std::uint64_t>(area.begin) + area.bytes + area.guard_bytes;
}

Block block_of(const VmAreaInfo& area) {
    Block block{.begin = reinterpret_cast<std::uint64_t>(area.begin) - area.guard_below, .end = end_of(area)};
    block.words = word_of(area);
    if (!area.name.empty() && !area.unpurged && area.name != block.words) block.words += " " + xml_text(area.name, 20);
    block.more = short_bytes(area.bytes);
    if (area.unpurged) {
        block.tint = k_purged;
        return block;
    }
    block.more += ", " + counted(area.pages, "page");
    if (area.user) block.more += ", user";
    if (area.exec) block.more += ", exec";
    block.filled = share(area.pages * k_page_size, area.bytes);
    if (area.kind == VmKind::backed) {
        block.tint = k_window_tint;
        block.full = k_window_full;
    }
    return block;
}

Block block_of(const OtherMappings& others) {
    std::vector<std::string_view> what;
    if (others.program) what.emplace_back("program");
    if (others.heap) what.emplace_back("heap");
    if (others.files) what.emplace_back("libraries");
    if (others.stack) what.emplace_back("stack");
    if (what.empty()) what.emplace_back("other memory");
    return {.begin = others.begin,
            .end = others.end,
            .words = fmt::format("{}", fmt::join(what, ", ")),
            .more = fmt::format("{}, {}", counted(others.count, "mapping"), short_bytes(others.bytes)),
            .tint = k_other};
}

Block block_of(const PoolView& pool) {
    Block block{
        .begin = pool.address, .end = pool.end, .words = "pool, direct map", .tint = k_pool_tint, .full = k_pool_full};
    block.more = short_bytes(pool.direct_map_bytes) + " mapped";
    if (pool.capacity_bytes != 0)
        block.more +=
            fmt::format(", {} in use of {}", short_bytes(pool.bytes_in_use), short_bytes(pool.capacity_bytes));
    block.filled = share(pool.bytes_in_use, pool.direct_map_bytes);
    return block;
}

/// The blocks of a space: itself, then its areas.
void add_space(const SpaceView& space, const std::vector<VmAreaInfo>& areas, std::vector<Block>& blocks) {
    const auto in_space = [&](const VmAreaInfo& area) {
        return reinterpret_cast<std::uint64_t>(area.begin) - space.base < space.bytes && area.kind != VmKind::backed;
    };
    const auto all = static_cast<std::uint64_t>(std::ranges::count_if(areas, in_space));
    blocks.push_back({.begin = space.base,
                      .end = space.base + space.bytes,
                      .words = fmt::format("space of {}", short_bytes(space.bytes)),
                      .more = all == 0 ? "no areas in it" : counted(all, "area"),
                      .tint = "#ffffff"});
    const std::size_t head = blocks.size() - 1;
    std::uint64_t drawn = 0;
    for (const VmAreaInfo& area : areas) {
        if (!in_space(area)) continue;
        if (++drawn > k_max_areas_of_space) {
            Block& last = blocks.back();
            ++last.bundled;
            last.end = std::max(last.end, end_of(area));
            last.words = fmt::format("{} more areas", grouped(last.bundled));
            last.more.clear();
            last.filled = 0;
            last.tint = k_area_tint;
        } else {
            blocks.push_back(block_of(area));
            if (drawn == k_max_areas_of_space) blocks.back().bundled = 1;
        }
    }
    blocks[head].areas = blocks.size() - 1 - head;
}

/// All blocks, from low to high; the areas of a space follow it.
std::vector<Block> blocks_of(const ProcessView& view) {
    std::vector<std::vector<Block>> things;
    for (const SpaceView& space : view.spaces) add_space(space, view.areas, things.emplace_back());
    for (const VmAreaInfo& area : view.areas)
        if (area.kind == VmKind::backed) things.push_back({block_of(area)});
    for (const PoolView& pool : view.pools) things.push_back({block_of(pool)});
    for (const OtherMappings& others : view.others) things.push_back({block_of(others)});
    std::ranges::sort(things, {}, [](const auto& thing) { return thing.front().begin; });
    if (things.size() > k_max_things) {
        Block rest{.begin = things[k_max_things].front().begin,
                   .end = things.back().front().end,
                   .words = fmt::format("{} more things", grouped(things.size() - k_max_things)),
                   .tint = k_other};
        things.resize(k_max_things);
        things.push_back({std::move(rest)});
    }
    std::vector<Block> blocks;
    for (auto& thing : things) std::ranges::move(thing, std::back_inserter(blocks));
    return blocks;
}

/// Draws the bar downwards.
class AddressBar {
public:
    explicit AddressBar(Svg& svg) : svg_{svg} {}

    /// Returns where it ends.
    double draw(const std::vector<Block>& blocks) {
        svg_.text(k_margin, k_top, "Address space, from low to high", {.size = 15, .bold = true});
        svg_.text(k_margin, k_top + 18,
                  "Blue: areas of a space. Green: windows of arenas. Orange: pools. Grey: what is not harena's.",
                  {.size = 11, .colour = k_faint});
        svg_.text(k_margin, k_top + 34,
                  "Dark: the part that has memory. Waves: not used, and not to scale; heights are logarithmic.",
                  {.size = 11, .colour = k_faint});
        y_ = k_top + 46;
        std::uint64_t at = 0;
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            gap(at, blocks[i].begin, k_x, k_bar);
            if (blocks[i].tint == "#ffffff") {
                space(blocks, i);
                at = blocks[i].end;
                i += blocks[i].areas;
            } else {
                block(blocks[i], k_x, k_bar);
                at = std::max(at, blocks[i].end);
            }
        }
        gap(at, std::uint64_t{1} << 47, k_x, k_bar);
        return y_;
    }

private:
    static constexpr double k_x = k_margin + 112;
    static constexpr double k_bar = 132;
    static constexpr double k_indent = 10;

    void address(std::uint64_t at) {
        svg_.text(k_x - 8, y_ + 11, fmt::format("{:x}", at),
                  {.size = 10.5, .colour = k_faint, .monospace = true, .anchor = "end"});
    }

    void label(const Block& block, double y) {
        std::string words = fmt::format("<tspan font-weight=\"bold\">{}</tspan>", block.words);
        if (!block.more.empty()) words += fmt::format("<tspan fill=\"{}\" dx=\"7\">{}</tspan>", k_faint, block.more);
        svg_.text(k_x + k_bar + 12, y, words, {.size = 12, .colour = k_ink});
    }

    // What is not used is as high whatever its size, and open at the sides: a break in the bar.
    void gap(std::uint64_t begin, std::uint64_t end, double x, double width) {
        if (end <= begin) return;
        constexpr double k_height = 20;
        const double middle = y_ + k_height / 2;
        std::string wave = fmt::format("M{:.5g} {:.6g}", x, middle);
        for (double step = 0; step + 12 <= width; step += 12) wave += " q3 -5 6 0 t6 0";
        svg_.path(wave, fmt::format(R"(fill="none" stroke="{}" stroke-width="1.2")", k_line));
        svg_.text(k_x + k_bar + 12, middle + 3.5, short_bytes(end - begin) + " unused",
                  {.size = 11, .colour = k_faint});
        y_ += k_height;
    }

    void block(const Block& block, double x, double width) {
        const auto pages = std::max<std::uint64_t>(1, (block.end - block.begin) / k_page_size);
        const double height = 17 + 0.7 * static_cast<double>(std::bit_width(pages));
        svg_.rectangle(x, y_, width, height, block.tint);
        if (block.filled > 0) svg_.rectangle(x, y_, std::max(2.0, width * block.filled), height, block.full);
        svg_.rectangle(x, y_, width, height, "none", fmt::format(R"(stroke="{}" stroke-width="1")", k_line));
        address(block.begin);
        label(block, y_ + height / 2 + 4);
        y_ += height;
    }

    void space(const std::vector<Block>& blocks, std::size_t head) {
        const Block& space = blocks[head];
        const double begin = y_;
        address(space.begin);
        label(space, y_ + 14);
        y_ += 20;
        std::uint64_t at = space.begin;
        for (std::size_t i = head + 1; i <= head + space.areas; ++i) {
            gap(at, blocks[i].begin, k_x + k_indent, k_bar - 2 * k_indent);
            block(blocks[i], k_x + k_indent, k_bar - 2 * k_indent);
            at = std::max(at, blocks[i].end);
        }
        gap(at, space.end, k_x + k_indent, k_bar - 2 * k_indent);
        y_ += 3;
        svg_.rectangle(k_x, begin, k_bar, y_ - begin, "none", fmt::format(R"(stroke="{}" stroke-width="1.6")", k_ink));
    }

    Svg& svg_;
    double y_ = 0;
};

// --- (b) the pages of an arena
// ----------------------------------------------------------------------------------------

struct ClassStyle {
    PageClass what;
    std::string_view colour;
    std::string_view words;
};
// From light to dark; reserved is of another hue, which no colour blindness takes for a blue.
constexpr std::array<ClassStyle, k_page_classes> k_classes{{
    {PageClass::free, "#e6eaee", "free"},
    {PageClass::recycled, "#9fc9e8", "recycled"},
    {PageClass::allocated, "#0072b2", "allocated"},
    {PageClass::huge, "#0b2343", "huge (2 MiB)"},
    {PageClass::reserved, "#e69f00", "reserved"},
    {PageClass::unknown, "#cc79a7", "in no known state"},
}};

std::string_view colour_of(PageClass what) noexcept { return k_classes[std::to_underlying(what)].colour; }

constexpr double k_pages_x = 700;
constexpr double k_offsets = 58;
constexpr double k_grid_x = k_pages_x + k_offsets;
constexpr double k_grid_width = k_width - k_margin - k_grid_x;
constexpr std::size_t k_max_pictured = 12;

void draw_squares(Svg& svg, const PageGrid& grid, double y, std::size_t columns) {
    const double size = k_grid_width / static_cast<double>(columns);
    const std::size_t rows = (grid.groups.size() + columns - 1) / columns;
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t end = std::min((row + 1) * columns, grid.groups.size());
        const double at = y + static_cast<double>(row) * size;
        // Neighbours of a kind are one rectangle; the lines over it make squares.
        for (std::size_t i = row * columns; i < end;) {
            const PageClass what = grid.groups[i].majority();
            const std::size_t begin = i;
            while (i < end && grid.groups[i].majority() == what) ++i;
            svg.rectangle(k_grid_x + static_cast<double>(begin - row * columns) * size, at,
                          static_cast<double>(i - begin) * size, size, colour_of(what));
        }
        for (std::size_t i = row * columns; i < end; ++i)
            if (grid.groups[i].mixed())
                svg.rectangle(k_grid_x + (static_cast<double>(i - row * columns) + 0.31) * size, at + 0.31 * size,
                              0.38 * size, 0.38 * size, colour_of(grid.groups[i].runner_up()));
        if (row % 8 == 0)
            svg.text(k_grid_x - 8, at + size / 2 + 4,
                     row == 0 ? "+0" : "+" + short_bytes(row * columns * grid.pages_per_group * k_page_size),
                     {.size = 10, .colour = k_faint, .monospace = true, .anchor = "end"});
    }
    std::string lines;
    const double height = static_cast<double>(rows) * size;
    for (std::size_t column = 0; column <= columns; ++column)
        lines += fmt::format("M{:.5g} {:.6g}v{:.5g}", k_grid_x + static_cast<double>(column) * size, y, height);
    for (std::size_t row = 0; row <= rows; ++row)
        lines += fmt::format("M{:.5g} {:.6g}h{:.5g}", k_grid_x, y + static_cast<double>(row) * size, k_grid_width);
    svg.path(lines, R"(stroke="#ffffff" stroke-width="1.3")");
}

/// Returns where it ends.
double draw_numbers(Svg& svg, const PageGrid& grid, double y) {
    double x = k_pages_x;
    for (const ClassStyle& style : k_classes) {
        if (style.what == PageClass::unknown && grid.total[style.what] == 0) continue;
        const std::string words = fmt::format("{} {}", grouped(grid.total[style.what]), style.words);
        const double width = 26 + 6.6 * static_cast<double>(words.size());
        if (x + width > k_width - k_margin + 10) {
            x = k_pages_x;
            y += 20;
        }
        svg.rectangle(x, y - 10, 12, 12, style.colour, fmt::format(R"(stroke="{}" stroke-width="0.6")", k_line));
        svg.text(x + 18, y,
                 fmt::format("<tspan font-weight=\"bold\">{}</tspan> {}", grouped(grid.total[style.what]), style.words),
                 {.size = 12, .colour = k_ink});
        x += width;
    }
    return y;
}

double draw_arena(Svg& svg, const ArenaView& arena, double y) {
    svg.text(k_pages_x, y, "Arena " + xml_text(arena.name, 40), {.size = 15, .bold = true});
    if (!arena.grid || arena.grid->groups.empty()) {
        svg.text(k_pages_x, y + 20, arena.grid ? "its pages are not drawn" : xml_text(arena.error, 90),
                 {.size = 12, .colour = k_faint});
        return y + 52;
    }
    const PageGrid& grid = *arena.grid;
    const TextStyle faint{.size = 11, .colour = k_faint};
    svg.text(k_pages_x, y + 18,
             fmt::format("{} pages, {}, at {:#x}", grouped(grid.pages), short_bytes(grid.pages * k_page_size),
                         arena.address),
             faint);
    svg.text(
        k_pages_x, y + 34,
        grid.pages_per_group == 1
            ? std::string{"A square is one page."}
            : fmt::format("A square is {} pages ({}): its colour is what most of them are, that of its middle what "
                          "others are.",
                          grouped(grid.pages_per_group), short_bytes(grid.pages_per_group * k_page_size)),
        faint);
    y = draw_numbers(svg, grid, y + 58) + 14;
    const std::size_t columns = grid.groups.size() > 512 ? 64 : 32;
    draw_squares(svg, grid, y, columns);
    const std::size_t rows = (grid.groups.size() + columns - 1) / columns;
    return y + static_cast<double>(rows) * k_grid_width / static_cast<double>(columns) + 44;
}

}  // namespace

std::string picture_of(const ProcessView& view) {
    Svg svg;
    const std::string title = fmt::format("harena inspect: process {} ({})", view.pid, xml_text(view.command, 40));
    std::uint64_t in_use = 0;
    for (const PoolView& pool : view.pools) in_use += pool.bytes_in_use;
    svg.text(k_margin, 42, fmt::format("Process {} ({})", view.pid, xml_text(view.command, 40)),
             {.size = 21, .bold = true});
    std::string sums = fmt::format("{}, {}, {}", counted(view.areas.size(), "area"),
                                   counted(view.arenas.size(), "arena"), counted(view.pools.size(), "pool"));
    if (in_use != 0) sums += fmt::format("; {} of pools in use", short_bytes(in_use));
    if (view.damaged != 0) sums += fmt::format("; {} entries that cannot be true are not shown", grouped(view.damaged));
    if (view.left_out != 0) sums += fmt::format("; {} things are left out", grouped(view.left_out));
    svg.text(k_margin, 63, sums, {.size = 12, .colour = k_faint});

    const double left = AddressBar{svg}.draw(blocks_of(view));
    double right = k_top;
    if (view.arenas.empty()) svg.text(k_pages_x, right, "No arenas", {.size = 15, .bold = true});
    for (std::size_t i = 0; i < std::min(view.arenas.size(), k_max_pictured); ++i)
        right = draw_arena(svg, view.arenas[i], right);
    if (view.arenas.size() > k_max_pictured)
        svg.text(k_pages_x, right, fmt::format("and {} arenas more", grouped(view.arenas.size() - k_max_pictured)),
                 {.size = 15, .bold = true});
    return svg.finish(k_width, std::max(left, right) + k_margin, title);
}

}  // namespace harena::tool
