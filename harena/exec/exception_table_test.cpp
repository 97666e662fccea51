// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/exception_table.hpp"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/file.hpp"
#include "harena/base/test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using test::refused;

/// The protection of what is mapped at an address, such as "r--s"; empty if nothing is.
std::string protection_of(const void* at) {
    const auto file = os::read_file("/proc/self/maps");
    if (!file) return "";
    const std::string maps{reinterpret_cast<const char*>(file->data()), file->size()};
    for (std::size_t line = 0; line < maps.size(); line = maps.find('\n', line) + 1) {
        std::size_t length = 0;
        const std::uintptr_t begin = std::stoull(maps.substr(line, 16), &length, 16);
        const std::uintptr_t end = std::stoull(maps.substr(line + length + 1, 16), nullptr, 16);
        if (begin <= reinterpret_cast<std::uintptr_t>(at) && reinterpret_cast<std::uintptr_t>(at) < end)
            return maps.substr(maps.find(' ', line) + 1, 4);
    }
    return "";
}

bool holds_in_child(const std::function<bool()>& holds) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(holds() ? 0 : 1);
    int status = -1;
    return ::waitpid(child, &status, 0) == child && status == 0;
}

/// A table beside the process's.
struct OwnTable {
    OwnTable() = default;
    OwnTable(const OwnTable&) = delete;
    OwnTable& operator=(const OwnTable&) = delete;
    ~OwnTable() {
        // What was mapped over it goes, so that it is memory again that can be freed.
        constexpr int k_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        EXPECT_NE(::mmap(pages.get(), sizeof *pages, PROT_READ | PROT_WRITE, k_flags, -1, 0), MAP_FAILED);
    }

    std::unique_ptr<ExceptionTable::Pages> pages = std::make_unique<ExceptionTable::Pages>();
    ExceptionTable::Writer writer;
    ExceptionTable table{*pages, writer};
};

class ExceptionTableTest : public ::testing::Test {
protected:
    void add(std::uintptr_t begin, std::uintptr_t end, std::uintptr_t fixup) {
        const auto added = table_.add({.begin = begin, .end = end, .fixup = fixup});
        ASSERT_TRUE(added) << added.error().message();
    }

    OwnTable own_;
    const ExceptionTable& table_ = own_.table;
};

TEST_F(ExceptionTableTest, is_empty_at_first) {
    EXPECT_EQ(table_.find_fixup(0), 0U);
    EXPECT_EQ(table_.find_fixup(0x1000), 0U);
    table_.remove(0x1000);
    EXPECT_EQ(own_.writer.file.get(), -1);
}

TEST_F(ExceptionTableTest, finds_the_fixup_of_the_range_that_holds_the_instruction) {
    add(0x2000, 0x2001, 0x9100);
    add(0x1000, 0x1010, 0x9000);
    EXPECT_EQ(table_.find_fixup(0x0fff), 0U);
    EXPECT_EQ(table_.find_fixup(0x1000), 0x9000U);
    EXPECT_EQ(table_.find_fixup(0x100f), 0x9000U);
    EXPECT_EQ(table_.find_fixup(0x1010), 0U);
    EXPECT_EQ(table_.find_fixup(0x2000), 0x9100U);
    EXPECT_EQ(table_.find_fixup(~std::uintptr_t{0}), 0U);
}

TEST_F(ExceptionTableTest, a_removed_range_is_not_found_and_can_be_added_again) {
    add(0x1000, 0x1010, 0x9000);
    add(0x2000, 0x2010, 0x9100);
    table_.remove(0x1000);
    EXPECT_EQ(table_.find_fixup(0x1000), 0U);
    EXPECT_EQ(table_.find_fixup(0x2008), 0x9100U);
    table_.remove(0x1000);
    add(0x1008, 0x1020, 0x9200);
    EXPECT_EQ(table_.find_fixup(0x1008), 0x9200U);
}

TEST_F(ExceptionTableTest, ranges_that_cannot_be_are_refused) {
    add(0x1000, 0x1010, 0x9000);
    EXPECT_TRUE(refused(table_.add({.begin = 0x2000, .end = 0x2000, .fixup = 1}), EINVAL, "0x2000"));
    EXPECT_TRUE(refused(table_.add({.begin = 0x2000, .end = 0x1fff, .fixup = 1}), EINVAL, "0x2000"));
    EXPECT_TRUE(refused(table_.add({.begin = 0, .end = 0x1fff, .fixup = 1}), EINVAL, "0x0"));
    EXPECT_TRUE(refused(table_.add({.begin = 0x2000, .end = 0x2010, .fixup = 0}), EINVAL, "0x2000"));
    EXPECT_TRUE(refused(table_.add({.begin = 0x100f, .end = 0x1011, .fixup = 1}), EEXIST, "0x100f"));
    EXPECT_TRUE(refused(table_.add({.begin = 0x0fff, .end = 0x1001, .fixup = 1}), EEXIST, "0xfff"));
    EXPECT_TRUE(refused(table_.add({.begin = 0x0fff, .end = 0x2000, .fixup = 1}), EEXIST, "0xfff"));
    EXPECT_TRUE(refused(table_.add({.begin = 0x1000, .end = 0x1010, .fixup = 1}), EEXIST, "0x1000"));
    EXPECT_EQ(table_.find_fixup(0x1000), 0x9000U);
    add(0x1010, 0x1011, 0x9100);
    add(0x0fff, 0x1000, 0x9200);
}

TEST_F(ExceptionTableTest, agrees_with_a_map_through_thousands_of_changes) {
    std::mt19937 random{7};
    std::map<std::uintptr_t, std::uintptr_t> model;  // range number to fix-up
    for (int turn = 0; turn < 5'000; ++turn) {
        const std::uintptr_t number = random() % 700 + 1;
        if (model.contains(number)) {
            table_.remove(number * 0x100);
            model.erase(number);
        } else {
            const std::uintptr_t fixup = random() + std::uintptr_t{1};
            add(number * 0x100, number * 0x100 + 0x80, fixup);
            model[number] = fixup;
        }
        for (int question = 0; question < 20; ++question) {
            const std::uintptr_t asked = random() % 702;
            const auto known = model.find(asked);
            ASSERT_EQ(table_.find_fixup(asked * 0x100 + random() % 0x80), known == model.end() ? 0 : known->second);
            ASSERT_EQ(table_.find_fixup(asked * 0x100 + 0x80 + random() % 0x80), 0U);
        }
    }
}

TEST_F(ExceptionTableTest, is_full_with_as_many_as_it_says) {
    for (std::uintptr_t i = 1; i <= ExceptionTable::k_capacity; ++i)
        ASSERT_TRUE(table_.add({.begin = i * 16, .end = i * 16 + 8, .fixup = i}));
    EXPECT_TRUE(refused(table_.add({.begin = 1, .end = 2, .fixup = 1}), ENOMEM, "20000"));
    for (std::uintptr_t i = 1; i <= ExceptionTable::k_capacity; i += 97) EXPECT_EQ(table_.find_fixup(i * 16 + 7), i);
    table_.remove(16);
    add(1, 2, 3);
}

// A reader never sees half of one range and half of another, and always sees a range that stays.
TEST_F(ExceptionTableTest, readers_beside_writers_see_whole_ranges_only) {
    add(1, 2, 77);
    std::atomic<bool> stop{false};
    std::thread writer{[&] {
        for (std::uintptr_t i = 0; i < 20'000; ++i) {
            const std::uintptr_t begin = (i % 50 + 1) * 0x1000;
            const auto handle = table_.add({.begin = begin, .end = begin + 0x1000, .fixup = begin + 1});
            table_.remove(*handle);
        }
        stop = true;
    }};
    while (!stop) {
        EXPECT_EQ(table_.find_fixup(1), 77U);
        for (std::uintptr_t page = 1; page <= 50; ++page) {
            const std::uintptr_t fixup = table_.find_fixup(page * 0x1000 + 5);
            EXPECT_TRUE(fixup == 0 || fixup == page * 0x1000 + 1) << fixup;
        }
    }
    writer.join();
}

TEST_F(ExceptionTableTest, nothing_in_the_process_can_write_to_its_ranges) {
    add(0x1000, 0x1010, 0x9000);
    const auto* const bytes = reinterpret_cast<const std::byte*>(own_.pages.get());
    for (std::size_t offset = 0; offset < sizeof *own_.pages; offset += 7 * k_page_size)
        ASSERT_EQ(protection_of(bytes + offset), "r--s") << offset;
}

TEST_F(ExceptionTableTest, of_the_process_is_itself_constant) {
    const auto& table = ExceptionTable::instance();
    EXPECT_EQ(protection_of(&table), "r--p");
}

TEST_F(ExceptionTableTest, a_child_has_its_parents_ranges_and_from_then_on_its_own) {
    add(0x1000, 0x1010, 0x9000);
    std::array<int, 2> to_child{};
    std::array<int, 2> to_parent{};
    ASSERT_EQ(::pipe(to_child.data()) | ::pipe(to_parent.data()), 0);
    table_.lock();
    const pid_t child = ::fork();
    if (child == 0) {
        table_.unlock_in_child();
        bool right = table_.find_fixup(0x1000) == 0x9000;
        table_.remove(0x1000);
        right = right && table_.add({.begin = 0x5000, .end = 0x5010, .fixup = 0x9500}).has_value();
        char byte = right ? 'r' : 'w';
        (void)!::write(to_parent[1], &byte, 1);
        (void)!::read(to_child[0], &byte, 1);
        right = right && table_.find_fixup(0x1000) == 0 && table_.find_fixup(0x2000) == 0 &&
                table_.find_fixup(0x5000) == 0x9500;
        ::_exit(right ? 0 : 1);
    }
    table_.unlock();
    char byte = 'w';
    EXPECT_EQ(::read(to_parent[0], &byte, 1), 1);
    EXPECT_EQ(byte, 'r');
    EXPECT_EQ(table_.find_fixup(0x1000), 0x9000U);
    EXPECT_EQ(table_.find_fixup(0x5000), 0U);
    add(0x2000, 0x2010, 0x9100);
    EXPECT_EQ(::write(to_child[1], &byte, 1), 1);
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(ExceptionTableTest, a_child_without_descriptors_still_finds_its_parents_ranges) {
    add(0x1000, 0x1010, 0x9000);
    table_.lock();
    EXPECT_TRUE(holds_in_child([this] {
        {
            FailCall injector{Call::memfd_create, EMFILE};
            const os::ScopedFaultInjector scope{injector};
            table_.unlock_in_child();
        }
        const bool found = table_.find_fixup(0x1000) == 0x9000;
        return found && table_.add({.begin = 0x5000, .end = 0x5010, .fixup = 0x9500}).has_value() &&
               table_.find_fixup(0x1000) == 0x9000 && table_.find_fixup(0x5000) == 0x9500;
    }));
    table_.unlock();
    EXPECT_EQ(table_.find_fixup(0x5000), 0U);
}

class ExceptionTableFails : public ::testing::TestWithParam<Call> {};
INSTANTIATE_TEST_SUITE_P(Calls, ExceptionTableFails,
                         ::testing::Values(Call::memfd_create, Call::ftruncate, Call::add_seals, Call::mmap,
                                           Call::mprotect, Call::mremap, Call::pwrite));

TEST_P(ExceptionTableFails, to_add_and_stays_as_it_was) {
    const OwnTable own;
    std::uint64_t places = 0;
    for (bool failed = true; failed; ++places) {
        FailCall injector{GetParam(), ENOMEM, places};
        {
            const os::ScopedFaultInjector scope{injector};
            const auto added = own.table.add({.begin = 0x1000, .end = 0x1008, .fixup = 5});
            failed = injector.seen() > places;
            EXPECT_EQ(added.has_value(), !failed) << places;
            EXPECT_TRUE(!failed || refused(added, ENOMEM, "exception table"));
        }
        EXPECT_EQ(own.table.find_fixup(0x1000), failed ? 0U : 5U);
    }
    EXPECT_GE(places, 2U) << "it was called";
    own.table.remove(0x1000);
    EXPECT_EQ(own.table.find_fixup(0x1000), 0U);
}

TEST(ExceptionTableDeath, a_range_that_cannot_be_removed_is_the_end) {
    const OwnTable own;
    ASSERT_TRUE(own.table.add({.begin = 0x1000, .end = 0x1008, .fixup = 5}));
    const auto remove = [&own] {
        FailCall injector{Call::pwrite, EIO};
        const os::ScopedFaultInjector scope{injector};
        own.table.remove(0x1000);
    };
    EXPECT_DEATH(remove(), "");
}

TEST_F(ExceptionTableTest, a_file_beyond_RLIMIT_FSIZE_is_EFBIG_and_does_not_kill) {
    EXPECT_TRUE(holds_in_child([this] {
        const rlimit limit{.rlim_cur = 5 * k_page_size, .rlim_max = 5 * k_page_size};
        if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
        std::uintptr_t at = 1;
        while (table_.add({.begin = at, .end = at + 1, .fixup = at})) ++at;
        return at > 2 * 170 && refused(table_.add({.begin = at, .end = at + 1, .fixup = 1}), EFBIG, "RLIMIT_FSIZE") &&
               table_.find_fixup(at - 1) == at - 1 && table_.find_fixup(at) == 0;
    }));
}

}  // namespace
}  // namespace harena
