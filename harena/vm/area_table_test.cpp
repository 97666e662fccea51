// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/area_table.hpp"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>

#include <gtest/gtest.h>

#include "harena/base/test_support.hpp"
#include "harena/vm/vmallocinfo.hpp"

namespace harena {
namespace {

std::source_location here(std::source_location where = std::source_location::current()) { return where; }

TEST(AreaTable, numbers_begin_at_one_and_come_again) {
    const auto table = AreaTable::create(nullptr, k_page_size).value();
    EXPECT_EQ(table->end(), 1U);
    EXPECT_EQ(table->take(), 1U);
    EXPECT_EQ(table->take(), 2U);
    EXPECT_EQ(table->take(), 3U);
    table->give(2);
    EXPECT_EQ(table->take(), 2U);
    EXPECT_EQ(table->take(), 4U);
    EXPECT_EQ(table->end(), 5U);
}

TEST(AreaTable, an_entry_that_was_given_back_says_nothing) {
    const auto table = AreaTable::create(nullptr, k_page_size).value();
    const std::uint32_t number = table->take().value();
    (*table)[number].record.store({.begin = 4096, .bytes = 8192, .state = AreaState::live, .kind = VmKind::map});
    EXPECT_EQ((*table)[number].record.try_load()->bytes, 8192U);
    table->give(number);
    EXPECT_EQ((*table)[number].record.try_load()->state, AreaState::none);
}

TEST(AreaTable, has_so_many_numbers) {
    const auto table = AreaTable::create(nullptr, k_page_size).value();
    for (std::uint32_t i = 1; i <= AreaTable::k_capacity; ++i) ASSERT_EQ(table->take(), i);
    EXPECT_TRUE(test::refused(table->take(), ENOMEM, "1048576 areas at most"));
    table->give(77);
    EXPECT_EQ(table->take(), 77U);
}

TEST(AreaTable, its_file_keeps_its_size) {
    const auto table = AreaTable::create(nullptr, k_page_size, 100).value();
    int file = -1;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
        std::error_code gone;
        if (std::filesystem::read_symlink(entry.path(), gone).string().starts_with("/memfd:harena:areas"))
            file = std::stoi(entry.path().filename().string());
    }
    ASSERT_GE(file, 0);
    EXPECT_EQ(::ftruncate(file, 0), -1) << "or whoever reads it would have a SIGBUS";
    EXPECT_EQ(::ftruncate(file, 1 << 30), -1);
}

TEST(AreaTable, text_is_cut_at_its_begin_and_ends_with_a_zero_byte) {
    const std::string long_name(200, 'a');
    const AreaOrigin origin = AreaTable::origin_of(long_name + "end", here());
    EXPECT_EQ(origin.name.back(), '\0');
    const VmAreaInfo info = AreaTable::info_of({}, origin, 0);
    EXPECT_EQ(info.name, std::string(60, 'a') + "end");
    const AreaOrigin exact = AreaTable::origin_of(std::string(63, 'b'), here());
    EXPECT_EQ(AreaTable::info_of({}, exact, 0).name, std::string(63, 'b'));
    EXPECT_TRUE(info.where.ends_with(fmt::format("area_table_test.cpp:{}", origin.line))) << info.where;
}

TEST(AreaTable, text_of_a_hostile_process_ends_and_does_nothing_to_a_terminal) {
    AreaOrigin origin;
    origin.name.fill('n');  // no zero byte
    origin.file.fill('\x1b');
    origin.file[1] = '\n';
    const VmAreaInfo info = AreaTable::info_of({}, origin, 0);
    EXPECT_EQ(info.name, std::string(64, 'n'));
    EXPECT_EQ(info.where, std::string(96, '?') + ":0");
    EXPECT_EQ(to_line(info).find('\n'), to_line(info).size() - 1);
}

TEST(AreaTable, records_of_any_bytes_are_a_line) {
    std::mt19937_64 random{3};
    for (int i = 0; i < 100'000; ++i) {
        std::array<std::uint64_t, (sizeof(AreaRecord) + sizeof(AreaOrigin)) / 8> bytes{};
        for (std::uint64_t& word : bytes) word = random() % 4 == 0 ? ~0ULL * (random() % 2) : random();
        AreaRecord record;
        AreaOrigin origin;
        std::memcpy(static_cast<void*>(&record), bytes.data(), sizeof record);
        std::memcpy(static_cast<void*>(&origin), bytes.data() + sizeof record / 8, sizeof origin);
        const std::string line = to_line(AreaTable::info_of(record, origin, random()));
        ASSERT_EQ(line.find('\n'), line.size() - 1) << line;
        ASSERT_EQ(line.find('\0'), std::string::npos);
        ASSERT_LT(line.size(), 500U);
    }
}

}  // namespace
}  // namespace harena
