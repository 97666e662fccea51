// SPDX-License-Identifier: Apache-2.0
//
// What `harena inspect` makes of a process, and of files that lie to it. The process is this one.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/test_support.hpp"
#include "harena/vm/area_table.hpp"
#include "harena/vm/vm_space.hpp"
#include "tools/harena/area_file.hpp"
#include "tools/harena/output.hpp"
#include "tools/harena/page_grid.hpp"
#include "tools/harena/picture.hpp"
#include "tools/harena/proc_maps.hpp"
#include "tools/harena/process_view.hpp"
#include "tools/harena/svg.hpp"

namespace harena::tool {
namespace {

using test::refused;

// --- /proc
// ------------------------------------------------------------------------------------------------------------

TEST(ProcMaps, a_line_is_a_mapping) {
    const auto mapping = parse_mapping(
        "7f1234560000-7f1234570000 rw-s 0000a000 00:01 4711                       /memfd:harena:my arena (deleted)");
    ASSERT_TRUE(mapping);
    EXPECT_EQ(mapping->begin, 0x7f12'3456'0000U);
    EXPECT_EQ(mapping->bytes(), 0x10000U);
    EXPECT_EQ(mapping->offset, 0xa000U);
    EXPECT_EQ(mapping->device, 1U);
    EXPECT_EQ(mapping->inode, 4711U);
    EXPECT_TRUE(mapping->shared);
    EXPECT_TRUE(mapping->accessible);
    EXPECT_EQ(mapping->path, "/memfd:harena:my arena (deleted)");
    const auto anonymous = parse_mapping("1000-2000 ---p 00000000 00:00 0 ");
    ASSERT_TRUE(anonymous);
    EXPECT_FALSE(anonymous->shared);
    EXPECT_FALSE(anonymous->accessible);
    EXPECT_EQ(anonymous->path, "");
}

TEST(ProcMaps, other_lines_are_none) {
    for (const std::string line :
         {"", "-", "Size:                  4 kB", "1000-2000", "1000-2000 rw-p", "2000-1000 rw-p 0 00:00 0 ",
          "1000-1000 rw-p 0 00:00 0 ", "1001-2000 rw-p 0 00:00 0 ", "1000-2000 rw-p 0 00-00 0 ",
          "1000-2000 rw-p 0 00:00 ", "10000000000000000-20000000000000000 rw-p 0 00:00 0 ",
          "Anonymous:             0 kB", "x1000-2000 rw-p 0 0:0 0 "})
        EXPECT_FALSE(parse_mapping(line)) << line;
}

TEST(ProcMaps, details_add_up_to_no_more_than_the_mapping_has) {
    Mapping mapping{.begin = 0, .end = 8 * k_mib, .path = {}};
    parse_detail("Rss:                8192 kB", mapping);
    EXPECT_EQ(mapping.huge_bytes, 0U);
    parse_detail("ShmemPmdMapped:     2048 kB", mapping);
    EXPECT_EQ(mapping.huge_bytes, 2 * k_mib);
    parse_detail("Shared_Hugetlb:     4096 kB", mapping);
    EXPECT_EQ(mapping.huge_bytes, 6 * k_mib);
    parse_detail("AnonHugePages: 18446744073709551615 kB", mapping);
    EXPECT_EQ(mapping.huge_bytes, 8 * k_mib);
    parse_detail("AnonHugePages:", mapping);
    parse_detail("AnonHugePages: many kB", mapping);
    EXPECT_EQ(mapping.huge_bytes, 8 * k_mib);
}

TEST(ProcMaps, all_mappings_of_this_process_are_found) {
    std::size_t count = 0;
    bool self = false;
    ASSERT_TRUE(for_each_mapping("/proc/self", [&](const Mapping& mapping) {
        ++count;
        self |= reinterpret_cast<std::uint64_t>(&count) - mapping.begin < mapping.bytes();
    }));
    EXPECT_GT(count, 10U);
    EXPECT_TRUE(self);
    EXPECT_EQ(for_each_mapping("/proc/0", [](const Mapping&) {}).error().code, ENOENT);
}

// --- files that lie
// ---------------------------------------------------------------------------------------------------

/// A file of areas in the making, whose header and entries can be anything.
class FalseAreas : public testing::Test {
protected:
    using Entry = AreaTable::Entry;
    static constexpr std::uint64_t k_base = 0x7f00'0000'0000;
    static constexpr std::uint64_t k_bytes = k_gib;

    FalseAreas() {
        EXPECT_TRUE(os::ftruncate(file_.get(), 16 * k_page_size));
        write_header(AreaTable::k_magic, k_base, k_bytes, 1);
    }
    void write(const void* what, std::size_t bytes, std::uint64_t at) const {
        EXPECT_TRUE(os::pwrite(file_.get(), what, bytes, at));
    }
    void write_header(std::uint64_t magic, std::uint64_t base, std::uint64_t bytes, std::uint32_t used) const {
        const std::array<std::uint64_t, 4> words{magic, base, bytes, used};
        write(words.data(), sizeof words, 0);
    }
    void write_entry(std::uint64_t number, const AreaRecord& record, std::uint64_t pages = 0) const {
        const auto entry = std::make_unique<Entry>();
        entry->record.store(record);
        AreaOrigin origin;
        origin.name.fill('n');  // without an end
        origin.file.fill('\x1b');
        origin.line = ~0ULL;
        entry->origin.store(origin);
        entry->pages = pages;
        write(static_cast<const void*>(entry.get()), sizeof(Entry), number * sizeof(Entry));
    }
    [[nodiscard]] Result<AreaFile> read() const {
        AreaBudget budget;
        return read_area_file(file_.get(), budget);
    }
    static AreaRecord record() {
        AreaRecord record;
        record.begin = k_base + 16 * k_page_size;
        record.bytes = 4 * k_page_size;
        record.guard_bytes = k_page_size;
        record.state = AreaState::live;
        return record;
    }

    os::FileDescriptor file_ = os::memfd_create("areas").value();
};

TEST_F(FalseAreas, a_true_one_is_read) {
    write_entry(1, record(), 3);
    const auto file = read();
    ASSERT_TRUE(file) << file.error().message();
    EXPECT_EQ(file->base, k_base);
    EXPECT_EQ(file->bytes, k_bytes);
    ASSERT_EQ(file->areas.size(), 1U);
    EXPECT_EQ(file->areas[0].pages, 3U);
    EXPECT_EQ(file->areas[0].name, std::string(64, 'n'));
    EXPECT_EQ(file->damaged, 0U);
}

TEST_F(FalseAreas, headers_that_cannot_be_are_refused) {
    const auto refuse = [&](std::uint64_t magic, std::uint64_t base, std::uint64_t bytes, std::uint32_t used) {
        write_header(magic, base, bytes, used);
        EXPECT_TRUE(refused(read(), EINVAL, "file of areas")) << magic << ' ' << base << ' ' << bytes << ' ' << used;
    };
    refuse(AreaTable::k_magic + 1, k_base, k_bytes, 1);
    refuse(AreaTable::k_magic, k_base + 1, k_bytes, 1);
    refuse(AreaTable::k_magic, 0, k_bytes, 1);
    refuse(AreaTable::k_magic, k_base, 0, 1);
    refuse(AreaTable::k_magic, k_base, ~0ULL << 12, 1);
    refuse(AreaTable::k_magic, std::uint64_t{1} << 63, k_bytes, 1);
    refuse(AreaTable::k_magic, k_base, k_bytes, 1000);  // more than the file has
    refuse(AreaTable::k_magic, k_base, k_bytes, ~0U);
    EXPECT_TRUE(os::ftruncate(file_.get(), 8));
    EXPECT_TRUE(refused(read(), EINVAL, "file of areas"));
    AreaBudget budget;
    EXPECT_TRUE(refused(read_area_file(os::memfd_create("empty")->get(), budget), EINVAL, "file of areas"));
    EXPECT_TRUE(refused(read_area_file(-1, budget), EBADF, "areas"));
}

TEST_F(FalseAreas, entries_that_cannot_be_are_counted_and_not_shown) {
    const auto damaged = [&](auto change) {
        AreaRecord changed = record();
        change(changed);
        write_entry(1, changed, ~0ULL);
        const auto file = read();
        EXPECT_TRUE(file);
        return file && file->areas.empty() && file->damaged == 1;
    };
    EXPECT_TRUE(damaged([](auto& r) { r.begin += 1; }));
    EXPECT_TRUE(damaged([](auto& r) { r.begin = 0; }));
    EXPECT_TRUE(damaged([](auto& r) { r.begin = k_base - k_page_size; }));
    EXPECT_TRUE(damaged([](auto& r) { r.begin = ~0ULL << 12; }));
    EXPECT_TRUE(damaged([](auto& r) { r.bytes = 0; }));
    EXPECT_TRUE(damaged([](auto& r) { r.bytes = 1; }));
    EXPECT_TRUE(damaged([](auto& r) { r.bytes = k_bytes; }));
    EXPECT_TRUE(damaged([](auto& r) { r.bytes = ~0ULL << 12; }));
    EXPECT_TRUE(damaged([](auto& r) { r.guard_bytes = ~0ULL << 12; }));
    EXPECT_TRUE(damaged([](auto& r) { r.guard_bytes = 12; }));
    EXPECT_TRUE(damaged([](auto& r) { r.guard_below = ~0ULL << 12; }));
    EXPECT_TRUE(damaged([](auto& r) { r.guard_below = r.begin; }));
    EXPECT_TRUE(damaged([](auto& r) { r.kind = static_cast<VmKind>(6); }));
    EXPECT_TRUE(damaged([](auto& r) { r.kind = static_cast<VmKind>(255); }));
    EXPECT_TRUE(damaged([](auto& r) { r.state = static_cast<AreaState>(3); }));
    EXPECT_TRUE(damaged([](auto& r) { r.user = 2; }));
    EXPECT_TRUE(damaged([](auto& r) { r.kind = VmKind::backed, r.begin = k_base - k_page_size; }));  // half inside
    EXPECT_FALSE(damaged([](auto& r) { r.kind = VmKind::backed, r.begin = k_base - k_mib; }));
    EXPECT_FALSE(damaged([](auto& r) { r.state = AreaState::none; }));
}

TEST_F(FalseAreas, pages_are_no_more_than_the_area_has) {
    write_entry(1, record(), ~0ULL);
    EXPECT_EQ(read()->areas.at(0).pages, 4U);
}

TEST_F(FalseAreas, an_entry_that_is_being_written_is_left_out) {
    write_entry(1, record());
    constexpr std::uint64_t k_odd = 3;
    write(&k_odd, sizeof k_odd, sizeof(Entry));  // its version
    const auto file = read();
    ASSERT_TRUE(file);
    EXPECT_TRUE(file->areas.empty());
    EXPECT_EQ(file->damaged, 0U);
}

TEST_F(FalseAreas, no_more_is_read_than_the_budget_allows) {
    EXPECT_TRUE(os::ftruncate(file_.get(), (1U << 20) * sizeof(Entry)));  // sparse: costs its owner nothing
    write_header(AreaTable::k_magic, k_base, k_bytes, (1U << 20) - 64);
    AreaBudget budget{.entries = 1000, .areas = 10};
    const auto file = read_area_file(file_.get(), budget);
    ASSERT_TRUE(file) << file.error().message();
    EXPECT_EQ(file->left_out, (1U << 20) - 64 - 3 * 256);
    EXPECT_LT(budget.entries, 256U);
    for (std::uint64_t number = 1; number < 100; ++number) write_entry(number, record());
    budget = {.entries = 300, .areas = 10};
    EXPECT_EQ(read_area_file(file_.get(), budget)->areas.size(), 10U);
}

TEST_F(FalseAreas, noise_is_never_more_than_noise) {
    std::mt19937_64 random{42};
    std::vector<std::uint64_t> noise(16 * k_page_size / 8 - 4);
    for (int turn = 0; turn < 50; ++turn) {
        // Numbers that are likely to get far, among others.
        for (std::uint64_t& word : noise) {
            word = random() >> random() % 64;
            if (turn % 2 == 0 && random() % 2 == 0) word = k_base + random() % k_bytes / k_page_size * k_page_size;
            if (random() % 4 == 0) word &= ~1ULL;
        }
        write(noise.data(), noise.size() * 8, 32);
        write_header(AreaTable::k_magic, k_base, k_bytes, 200);
        const auto file = read();
        ASSERT_TRUE(file) << file.error().message();
        ProcessView view{.pid = "1", .command = "noise", .areas = file->areas};
        view.spaces.push_back({.base = file->base, .bytes = file->bytes});
        EXPECT_LT(picture_of(view).size(), k_mib);
    }
}

// --- pages
// ------------------------------------------------------------------------------------------------------------

TEST(PageGridTest, every_state_has_its_class) {
    const auto file =
        ArenaFile::create({.name = "grid", .pages = PageCount{10}, .user_vm_start = UserAddress{0x2000'0000'1000}})
            .value();
    constexpr std::array<std::uint32_t, 10> k_states{0, 1, 2, 2, 2, 3, 4, 5, 8, 255};
    for (std::uint32_t page = 0; page < 10; ++page)
        file->words().store(PageIndex{page}, ArenaWord::from_bits(k_states[page] | 0xabcd'ef00));
    const std::array<os::AddressRange, 2> huge{{{.begin = 0, .end = 1}, {.begin = 3, .end = 5}}};
    const auto grid = read_page_grid(file->fd(), huge);
    ASSERT_TRUE(grid) << grid.error().message();
    EXPECT_EQ(grid->pages, 10U);
    EXPECT_EQ(grid->pages_per_group, 1U);
    EXPECT_EQ(grid->total[PageClass::free], 2U) << "absent and freeing";
    EXPECT_EQ(grid->total[PageClass::allocated], 2U) << "populating and used";
    EXPECT_EQ(grid->total[PageClass::huge], 2U);
    EXPECT_EQ(grid->total[PageClass::recycled], 1U);
    EXPECT_EQ(grid->total[PageClass::reserved], 1U);
    EXPECT_EQ(grid->total[PageClass::unknown], 2U);
    EXPECT_EQ(grid->groups[3].majority(), PageClass::huge);
}

TEST(PageGridTest, large_arenas_are_summed_up_in_groups) {
    PageGrid grid{1U << 20};
    EXPECT_EQ(grid.pages_per_group, 512U);
    EXPECT_EQ(grid.groups.size(), 2048U);
    for (std::uint64_t page = 0; page < 512; ++page)
        grid.add(page, page < 300 ? PageClass::free : page < 500 ? PageClass::allocated : PageClass::reserved);
    EXPECT_EQ(grid.groups[0].majority(), PageClass::free);
    EXPECT_EQ(grid.groups[0].runner_up(), PageClass::allocated);
    EXPECT_TRUE(grid.groups[0].mixed());
    EXPECT_FALSE(grid.groups[1].mixed());
    for (const std::uint64_t pages : {1UL, 2047UL, 2048UL, 2049UL, 4097UL, (1UL << 20) - 1})
        EXPECT_LE(PageGrid{pages}.groups.size(), PageGrid::k_max_groups) << pages;
}

TEST(PageGridTest, files_that_are_no_arenas_are_refused) {
    const auto file = os::memfd_create("arena").value();
    EXPECT_TRUE(refused(read_page_grid(file.get(), {}), EINVAL, "not an arena's file"));
    ASSERT_TRUE(os::ftruncate(file.get(), 5 * k_gib));
    EXPECT_TRUE(refused(read_page_grid(file.get(), {}), EINVAL, "not an arena's file"));
    EXPECT_TRUE(refused(read_page_grid(-1, {}), EBADF, "looked at"));
}

// --- the view of this process
// -----------------------------------------------------------------------------------------

TEST(LookAtProcess, finds_an_arena_and_what_its_pages_are) {
    const auto arena = ProcessArena::create({.name = "seen", .pages = PageCount{64}}).value();
    ASSERT_TRUE(arena->alloc_pages(PageCount{10}));
    ASSERT_TRUE(arena->reserve_pages(arena->data() + 20 * k_page_size, PageCount{3}));
    const auto view = look_at_process("self");
    ASSERT_TRUE(view) << view.error().message();
    EXPECT_TRUE(view->uses_harena);
    ASSERT_EQ(view->areas.size(), 1U);
    EXPECT_EQ(view->areas[0].pages, 10U);
    EXPECT_EQ(view->areas[0].name, "seen");
    ASSERT_EQ(view->arenas.size(), 1U);
    EXPECT_EQ(view->arenas[0].name, "seen");
    EXPECT_EQ(view->arenas[0].address, arena->user_vm_start().value());
    ASSERT_TRUE(view->arenas[0].grid) << view->arenas[0].error;
    EXPECT_EQ(view->arenas[0].grid->total[PageClass::allocated], 10U);
    EXPECT_EQ(view->arenas[0].grid->total[PageClass::reserved], 3U);
    EXPECT_EQ(view->arenas[0].grid->total[PageClass::free], 51U);
    EXPECT_EQ(arena->statistics()->used.value(), 10U) << "looking changes nothing";
}

TEST(LookAtProcess, an_arena_with_the_name_of_another_file_is_an_arena_all_the_same) {
    const auto areas = ProcessArena::create({.name = "areas", .pages = PageCount{4}}).value();
    const auto pages = ProcessArena::create({.name = "pages", .pages = PageCount{4}}).value();
    const auto view = look_at_process("self");
    ASSERT_TRUE(view);
    EXPECT_EQ(view->areas.size(), 2U);
    EXPECT_EQ(view->arenas.size(), 2U);
    EXPECT_TRUE(view->pools.empty());
    EXPECT_TRUE(view->unreadable.empty());
}

TEST(LookAtProcess, finds_a_space_with_its_pool) {
    const auto pool = PagePool::create({.capacity = PageCount{4 * 512}, .nodes = 1}).value();
    const auto space = VmSpace::create({.bytes = k_gib, .pool = pool.get()}).value();
    void* const buffer = space->vmalloc(10 * k_page_size, {.name = "buffer"}).value();
    const auto view = look_at_process("self");
    ASSERT_TRUE(view);
    EXPECT_TRUE(std::ranges::any_of(view->spaces, [&](const SpaceView& seen) {
        return seen.base == reinterpret_cast<std::uint64_t>(space->base()) && seen.bytes == k_gib;
    }));
    ASSERT_EQ(view->areas.size(), 1U);
    EXPECT_EQ(view->areas[0].begin, buffer);
    EXPECT_EQ(view->areas[0].pages, 10U);
    ASSERT_EQ(view->pools.size(), 1U);
    EXPECT_EQ(view->pools[0].capacity_bytes, 4 * k_huge_page_size);
    EXPECT_GE(view->pools[0].bytes_in_use, 10 * k_page_size);
    EXPECT_EQ(view->pools[0].direct_map_bytes, k_huge_page_size) << "what is mapped in the space is not counted";
    EXPECT_TRUE(space->vfree(buffer));
}

TEST(LookAtProcess, false_files_beside_true_ones_are_reported) {
    const auto arena = ProcessArena::create({.name = "true", .pages = PageCount{4}}).value();
    const auto file = os::memfd_create("harena:areas").value();
    ASSERT_TRUE(os::ftruncate(file.get(), k_page_size));
    void* const mapped = os::mmap(nullptr, k_page_size, PROT_READ, MAP_SHARED, file.get(), 0).value();
    const auto view = look_at_process("self");
    EXPECT_TRUE(os::munmap(mapped, k_page_size));
    ASSERT_TRUE(view);
    EXPECT_EQ(view->arenas.size(), 1U);
    ASSERT_EQ(view->unreadable.size(), 1U);
    EXPECT_NE(view->unreadable[0].find("not a file of areas"), std::string::npos);
}

TEST(LookAtProcess, spaces_at_the_same_addresses_cannot_be) {
    const std::array<std::uint64_t, 4> header{AreaTable::k_magic, 0x7f00'0000'0000, k_gib, 0};
    std::vector<os::FileDescriptor> files;
    std::vector<void*> mapped;
    for (int i = 0; i < 3; ++i) {
        files.push_back(os::memfd_create("harena:areas").value());
        ASSERT_TRUE(os::ftruncate(files.back().get(), k_page_size));
        ASSERT_TRUE(os::pwrite(files.back().get(), header.data(), sizeof header, 0));
        mapped.push_back(os::mmap(nullptr, k_page_size, PROT_READ, MAP_SHARED, files.back().get(), 0).value());
    }
    const auto view = look_at_process("self");
    for (void* const at : mapped) EXPECT_TRUE(os::munmap(at, k_page_size));
    ASSERT_TRUE(view) << view.error().message();
    EXPECT_EQ(std::ranges::count_if(view->spaces, [&](const SpaceView& space) { return space.base == header[1]; }), 1);
    EXPECT_EQ(view->damaged, 2U);
}

TEST(PrintJson, does_nothing_to_a_terminal) {
    testing::internal::CaptureStdout();
    print_json({{"name", "\u009b2J\u202e\x1b[2J\xff"}});
    (void)std::fflush(stdout);
    const std::string text = testing::internal::GetCapturedStdout();
    EXPECT_TRUE(std::ranges::all_of(text, [](char c) { return c == '\n' || (c >= ' ' && c < '\x7f'); })) << text;
}

TEST(LookAtProcess, what_is_no_process_is_refused) {
    for (const std::string pid : {"", "0", "-1", "1x", "self ", "99999999999999999999", "../1"})
        EXPECT_TRUE(refused(look_at_process(pid), EINVAL, "neither a process ID nor 'self'")) << pid;
    EXPECT_TRUE(refused(look_at_process("2147483647"), ESRCH, "no process 2147483647"));
}

// --- the picture
// ------------------------------------------------------------------------------------------------------

TEST(Picture, text_of_a_hostile_process_is_text) {
    EXPECT_EQ(xml_text("<a href=\"x\">&amp;</a>"), "&lt;a href=&quot;x&quot;&gt;&amp;amp;&lt;/a&gt;");
    EXPECT_EQ(xml_text("a\x01\n\xff\u00e9"), "a\\x01\\n\\xff\u00e9");
    EXPECT_EQ(xml_text("\uFFFE\uFFFF\uFFFD"), "??\uFFFD");
    EXPECT_EQ(xml_text("abcdef", 3), "abc…");
    EXPECT_EQ(xml_text("äöü", 3), "äöü");
    EXPECT_LE(xml_text(std::string(1'000'000, '&'), 10).size(), 60U);
}

TEST(Picture, numbers_are_short) {
    EXPECT_EQ(short_bytes(0), "0 B");
    EXPECT_EQ(short_bytes(4096), "4 KiB");
    EXPECT_EQ(short_bytes(1536 * k_kib), "1.5 MiB");
    EXPECT_EQ(short_bytes(k_mib - 1), "1 MiB");
    EXPECT_EQ(short_bytes(64 * 1024 * k_gib), "64 TiB");
    EXPECT_EQ(grouped(0), "0");
    EXPECT_EQ(grouped(999), "999");
    EXPECT_EQ(grouped(1000), "1,000");
    EXPECT_EQ(grouped(1'048'576), "1,048,576");
}

TEST(Picture, has_a_bounded_size_whatever_there_is) {
    ProcessView view{.pid = "1", .command = std::string(100'000, '<')};
    for (std::uint64_t i = 1; i <= 3000; ++i) {
        const std::uint64_t at = i << 33;
        view.spaces.push_back({.base = at, .bytes = k_gib});
        view.areas.push_back({.begin = reinterpret_cast<std::byte*>(at),
                              .bytes = k_page_size,
                              .where = "",
                              .name = std::string(63, '&')});
        view.pools.push_back({.address = at + 2 * k_gib, .end = at + 3 * k_gib});
        view.others.push_back({.begin = at + 3 * k_gib, .end = at + 4 * k_gib});
        ArenaView arena{.name = "arena", .address = at, .window = at, .grid = PageGrid{1U << 20}, .error = {}};
        for (std::uint64_t page = 0; page < 1U << 20; page += 256)
            arena.grid->add(page, static_cast<PageClass>(page / 256 % k_page_classes));
        if (i <= 20) view.arenas.push_back(std::move(arena));
    }
    EXPECT_LT(picture_of(view).size(), 8 * k_mib);
}

TEST(Picture, of_nothing_says_so) {
    const std::string picture = picture_of({.pid = "1", .command = "idle"});
    EXPECT_NE(picture.find("No arenas"), std::string::npos);
    EXPECT_NE(picture.find("Process 1 (idle)"), std::string::npos);
}

}  // namespace
}  // namespace harena::tool
