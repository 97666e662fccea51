// SPDX-License-Identifier: Apache-2.0
// What tools are told of text.
#include <elf.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

#include "harena/base/os/file.hpp"
#include "harena/base/os/process.hpp"
#include "harena/exec/symbol_elf.hpp"
#include "harena/exec/test_support.hpp"

// The debugger's view: the layout of gdb's manual, "JIT Interface".
extern "C" {
struct jit_code_entry {  // NOLINT(readability-identifier-naming)
    jit_code_entry* next_entry;
    jit_code_entry* prev_entry;
    const char* symfile_addr;
    std::uint64_t symfile_size;
};
struct jit_descriptor {  // NOLINT(readability-identifier-naming)
    std::uint32_t version;
    std::uint32_t action_flag;
    jit_code_entry* relevant_entry;
    jit_code_entry* first_entry;
};
extern jit_descriptor __jit_debug_descriptor;  // NOLINT
}

namespace harena {
namespace {

using test::ok;
using test::refused;

std::string perf_map_path() { return fmt::format("/tmp/perf-{}.map", os::process_id()); }

class TextPerfMap : public testing::Test {
protected:
    TextPerfMap() { remove(); }
    ~TextPerfMap() override { remove(); }
    static void remove() {
        std::error_code error;
        std::filesystem::remove(perf_map_path(), error);
    }
    static std::string contents() {
        const auto file = os::read_file(perf_map_path());
        return file ? std::string{reinterpret_cast<const char*>(file->data()), file->size()} : "";
    }
    static Result<std::unique_ptr<TextSpace>> make() {
        return TextSpace::create({.max_bytes = 2 * k_mib, .symbols = {.perf_map = true}});
    }
};

TEST_F(TextPerfMap, has_a_line_for_each_piece_with_a_name) {
    const auto space = make().value();
    void* const one = space->text_alloc(100, {.name = "one"}).value();
    (void)space->text_alloc(100).value();
    void* const two = space->text_alloc(16, {.name = "two\nlines"}).value();
    EXPECT_EQ(contents(), fmt::format("{:x} 64 one\n{:x} 10 two?lines\n", reinterpret_cast<std::uint64_t>(one),
                                      reinterpret_cast<std::uint64_t>(two)));
    EXPECT_EQ(std::filesystem::status(perf_map_path()).permissions(),
              std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(TextPerfMap, is_not_made_unless_asked_for) {
    const auto space = TextSpace::create({.max_bytes = 2 * k_mib}).value();
    (void)space->text_alloc(16, {.name = "nobody"}).value();
    EXPECT_FALSE(std::filesystem::exists(perf_map_path()));
}

TEST_F(TextPerfMap, of_another_generator_in_the_process_is_appended_to) {
    const auto first = make().value();
    (void)first->text_alloc(16, {.name = "first"}).value();
    const auto second = make().value();
    (void)second->text_alloc(16, {.name = "second"}).value();
    EXPECT_NE(contents().find("first\n"), std::string::npos);
    EXPECT_NE(contents().find("second\n"), std::string::npos);
}

TEST_F(TextPerfMap, that_somebody_prepared_is_refused) {
    const std::string victim = fmt::format("/tmp/harena-victim-{}", os::process_id());
    ASSERT_TRUE(os::write_file(victim, {}));
    std::filesystem::create_symlink(victim, perf_map_path());
    EXPECT_TRUE(refused(make(), EEXIST, "remove it"));
    remove();
    std::filesystem::create_hard_link(victim, perf_map_path());
    EXPECT_TRUE(refused(make(), EEXIST, "remove it"));
    remove();
    std::filesystem::rename(victim, perf_map_path());
    std::filesystem::permissions(perf_map_path(), std::filesystem::perms::others_write,
                                 std::filesystem::perm_options::add);
    EXPECT_TRUE(refused(make(), EEXIST, "remove it"));
    remove();
    std::filesystem::create_directory(perf_map_path());
    EXPECT_FALSE(make());
}

TEST(TextJitDump, has_a_header_and_a_record_for_each_piece_with_a_name_once_it_is_written) {
    std::error_code error;
    const std::filesystem::path folder = fmt::format("/tmp/harena-dump-{}", os::process_id());
    std::filesystem::remove_all(folder, error);
    std::filesystem::create_directory(folder);
    const std::string path = fmt::format("{}/jit-{}.dump", folder.string(), os::process_id());
    {
        const auto space = TextSpace::create({.symbols = {.jit_dump_folder = folder.native()}});
        if (!space && space.error().code() == EPERM) GTEST_SKIP() << space.error().message();
        ASSERT_TRUE(ok(space));
        EXPECT_TRUE(ok(TextSpace::create({.symbols = {.jit_dump_folder = folder.native()}}))) << "one file for both";
        void* const text = (*space)->text_alloc(6, {.name = "answer"}).value();
        const std::uint64_t empty = std::filesystem::file_size(path);
        EXPECT_EQ(empty, 40U);
        const auto code = test::returning(42);
        ASSERT_TRUE(ok((*space)->text_poke(text, code)));
        ASSERT_TRUE(ok((*space)->text_poke(text, code)));
        const auto file = os::read_file(path).value();
        ASSERT_EQ(file.size(), 40U + 56 + 7 + 6);
        std::uint64_t address = 0;
        std::memcpy(&address, &file[40 + 24], sizeof address);
        EXPECT_EQ(address, reinterpret_cast<std::uint64_t>(text));
        EXPECT_EQ(std::memcmp(&file[40 + 56], "answer", 7), 0);
        EXPECT_EQ(std::memcmp(&file[40 + 56 + 7], code.data(), code.size()), 0);
        EXPECT_EQ(test::count_mappings(path), 1U) << "by which perf knows it";
        EXPECT_EQ((*space)->statistics().symbol_failures, 0U);
    }
    EXPECT_EQ(test::count_mappings(path), 0U);
    EXPECT_TRUE(refused(TextSpace::create({.symbols = {.jit_dump_folder = folder.native()}}), EEXIST, path));
    std::filesystem::remove_all(folder, error);
}

TEST(TextGdb, knows_of_pieces_with_names_as_long_as_they_live) {
    const auto space = TextSpace::create({.max_bytes = 2 * k_mib, .symbols = {.gdb = true}}).value();
    ASSERT_EQ(__jit_debug_descriptor.version, 1U);
    EXPECT_EQ(__jit_debug_descriptor.first_entry, nullptr);
    void* const one = space->text_alloc(16, {.name = "one"}).value();
    void* const two = space->text_alloc(16, {.name = "two"}).value();
    const jit_code_entry* const newest = __jit_debug_descriptor.first_entry;
    ASSERT_NE(newest, nullptr);
    EXPECT_EQ(__jit_debug_descriptor.action_flag, 1U);
    EXPECT_EQ(__jit_debug_descriptor.relevant_entry, newest);
    EXPECT_NE((std::string_view{newest->symfile_addr, newest->symfile_size}.find("two")), std::string_view::npos);
    ASSERT_NE(newest->next_entry, nullptr);
    EXPECT_EQ(newest->next_entry->prev_entry, newest);
    ASSERT_TRUE(ok(space->text_free(one)));
    EXPECT_EQ(__jit_debug_descriptor.action_flag, 2U);
    EXPECT_EQ(newest->next_entry, nullptr);
    ASSERT_TRUE(ok(space->text_retire(two)));
    EXPECT_EQ(__jit_debug_descriptor.first_entry, nullptr);
}

TEST(TextGdb, file_of_a_symbol_is_an_object_with_one_function) {
    const std::vector<char> file = symbol_elf(0x7000, 48, "answer");
    Elf64_Ehdr header;
    std::memcpy(&header, file.data(), sizeof header);
    EXPECT_EQ(std::memcmp(header.e_ident, ELFMAG, SELFMAG), 0);
    std::vector<Elf64_Shdr> sections(header.e_shnum);
    ASSERT_LE(header.e_shoff + sections.size() * sizeof(Elf64_Shdr), file.size());
    std::memcpy(sections.data(), file.data() + header.e_shoff, sections.size() * sizeof(Elf64_Shdr));
    const auto name_of = [&](std::size_t i) {
        return std::string{file.data() + sections[header.e_shstrndx].sh_offset + sections[i].sh_name};
    };
    ASSERT_EQ(sections.size(), 5U);
    EXPECT_EQ(name_of(1), ".text");
    EXPECT_EQ(sections[1].sh_addr, 0x7000U);
    EXPECT_EQ(sections[1].sh_size, 48U);
    EXPECT_EQ(name_of(2), ".symtab");
    Elf64_Sym symbol;
    std::memcpy(&symbol, file.data() + sections[2].sh_offset + sizeof symbol, sizeof symbol);
    EXPECT_EQ(name_of(3), ".strtab");
    EXPECT_EQ((std::string{file.data() + sections[3].sh_offset + symbol.st_name}), "answer");
    EXPECT_EQ(symbol.st_shndx, 1U);
    EXPECT_EQ(symbol.st_size, 48U);
    EXPECT_EQ(name_of(4), ".shstrtab");
}

}  // namespace
}  // namespace harena
