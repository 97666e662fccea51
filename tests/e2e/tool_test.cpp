// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <regex>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

using nlohmann::json;
using ToolRun = CommandTest;
using ToolCc = CommandTest;
using ToolDump = CommandTest;
using ToolDoctor = CommandTest;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(ToolRun, prints_what_the_only_program_returned) {
    const Outcome outcome = harena({"run", object("answer")});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.out, "program   answer (syscall)\n")) << outcome.out;
    EXPECT_TRUE(has(outcome.out, "returned  42\n")) << outcome.out;
    EXPECT_TRUE(has(outcome.out, "faults    0\n")) << outcome.out;
    EXPECT_EQ(outcome.err, "");
}

TEST_F(ToolRun, runs_the_program_that_is_named) {
    EXPECT_TRUE(has(harena({"run", object("choices"), "--program", "second"}).out, "returned  2\n"));
    EXPECT_TRUE(has(harena({"run", object("choices"), "--program", "on_request"}).out, "returned  3\n"));
}

TEST_F(ToolRun, compiles_bpf_c_first) {
    const Outcome outcome = harena({"run", std::string{HARENA_E2E_ROOT} + "/tests/e2e/answer.bpf.c"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.out, "returned  42\n")) << outcome.out;
}

TEST_F(ToolRun, gives_the_context_file_to_the_program) {
    const std::string context = file("context", std::string{"\x15\0\0\0\x03\0\0\0", 8});
    const Outcome outcome = harena({"run", object("context"), "--program", "twice", "--ctx", context, "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out);
    EXPECT_EQ(result["return_value"], 42);
    EXPECT_EQ(result["context"], "2a00000003000000");
}

TEST_F(ToolRun, json_has_the_documented_keys) {
    const Outcome outcome =
        harena({"run", object("faults"), "--program", "one_of_each", "--arena-address", "0", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out);
    EXPECT_EQ(result["file"], object("faults"));
    EXPECT_EQ(result["program"], "one_of_each");
    EXPECT_EQ(result["type"], "syscall");
    EXPECT_EQ(result["status"], "ok");
    EXPECT_TRUE(result["duration_ns"].is_number_unsigned());
    EXPECT_TRUE(result["fault_count"].is_number_unsigned());
    for (const json& fault : result["faults"]) {
        EXPECT_TRUE(fault["address"].is_string());
        EXPECT_EQ(fault["function"], "one_of_each");
        EXPECT_TRUE(fault["instruction"].is_number_unsigned());
        EXPECT_TRUE(has(fault["place"], "one_of_each"));
    }
}

TEST_F(ToolRun, shows_faults_with_their_source_lines) {
    const Outcome outcome = harena({"run", object("faults"), "--program", "one_of_each", "--arena-address", "0"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.out, "returned  11\n")) << outcome.out;
    EXPECT_TRUE(has(outcome.out, "faults    2\n")) << outcome.out;
    // The program has addresses of 1 << 44 in it; only their low halves matter to an access.
    for (const std::string report :
         {"READ access at unmapped address 0x[0-9a-f]+00005008\n",
          "WRITE access at unmapped address 0x[0-9a-f]+00005010\n", "faults.bpf.c:[0-9]+: __u64 value = PAGE"})
        EXPECT_TRUE(std::regex_search(outcome.out, std::regex{report})) << report << " in:\n" << outcome.out;
}

TEST_F(ToolRun, counts_faults_beyond_those_that_it_keeps) {
    const Outcome outcome = harena({"run", object("faults"), "--program", "many", "--arena-address", "0", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out);
    EXPECT_EQ(result["fault_count"], 100);
    EXPECT_EQ(result["faults"].size(), 64U);
}

TEST_F(ToolRun, error_of_the_program_is_status_1_with_its_place) {
    const std::string context = file("context", std::string{"\0\0\0\0\0\0\1\0", 8});
    const Outcome outcome = harena({"run", object("context"), "--program", "read_stack", "--ctx", context});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(has(outcome.err, "read_stack")) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "context.bpf.c:")) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "stack")) << outcome.err;

    const Outcome with_json = harena({"run", object("context"), "--program", "read_stack", "--ctx", context, "--json"});
    EXPECT_EQ(with_json.status, 1);
    const json result = json::parse(with_json.out);
    EXPECT_EQ(result["status"], "error");
    EXPECT_EQ(result["error"]["code"], EFAULT);
    EXPECT_TRUE(has(result["error"]["message"], "read_stack"));
    EXPECT_FALSE(result.contains("return_value"));
}

TEST_F(ToolRun, endless_loop_ends_with_the_budget) {
    const auto start = std::chrono::steady_clock::now();
    const Outcome outcome = harena({"run", object("loops"), "--program", "for_ever", "--budget-ms", "50"});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(has(outcome.err, "for_ever")) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "budget of 50 ms")) << outcome.err;
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds{60});
}

TEST_F(ToolRun, can_loop_takes_its_exit_when_the_budget_is_used_up) {
    const Outcome outcome = harena({"run", object("loops"), "--program", "politely", "--budget-ms", "20"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.out, "returned  7\n")) << outcome.out;
}

TEST_F(ToolCc, makes_an_object_that_runs) {
    const std::string source = file("seven.bpf.c",
                                    "#include <harena/arena.h>\n#include <bpf/bpf_helpers.h>\n"
                                    "HARENA_ARENA(arena, 4);\nchar _license[] SEC(\"license\") = \"GPL\";\n"
                                    "SEC(\"syscall\") int seven(void* ctx) {\n"
                                    "  int __arena* p = bpf_arena_alloc_pages(&arena, NULL, 1, NUMA_NO_NODE, 0);\n"
                                    "  if (!p) return 1;\n  *p = VALUE; return *p; }\n");
    const Outcome compiled = harena({"cc", source, "--", "-DVALUE=7", "-O1"});
    ASSERT_EQ(compiled.status, 0) << compiled.err;
    EXPECT_EQ(compiled.out + compiled.err, "");
    const Outcome outcome = harena({"run", path("seven.bpf.o")});
    EXPECT_TRUE(has(outcome.out, "returned  7\n")) << outcome.out << outcome.err;

    ASSERT_EQ(harena({"cc", source, "-o", path("eight.o"), "--", "-DVALUE=8"}).status, 0);
    EXPECT_TRUE(has(harena({"run", path("eight.o")}).out, "returned  8\n"));
}

TEST_F(ToolCc, shows_what_does_not_compile) {
    const std::string source = file("broken.bpf.c", "int broken(void) { return undeclared; }\n");
    for (const std::string command : {"cc", "run"}) {
        const Outcome outcome = harena({command, source});
        EXPECT_EQ(outcome.status, 2);
        EXPECT_TRUE(has(outcome.err, "broken.bpf.c:1:")) << outcome.err;
        EXPECT_TRUE(has(outcome.err, "undeclared")) << outcome.err;
        EXPECT_TRUE(has(outcome.err, "harena: " + source + ": does not compile")) << outcome.err;
        EXPECT_EQ(outcome.out, "");
    }
    EXPECT_FALSE(std::filesystem::exists(path("broken.bpf.o")));
}

TEST_F(ToolCc, says_when_the_compiler_that_was_chosen_is_missing) {
    const std::string source = file("empty.bpf.c", "");
    const Outcome outcome = run({"env", "HARENA_CLANG=/nowhere/clang", HARENA_E2E_TOOL, "cc", source});
    expect_bad_input(outcome, {source, "/nowhere/clang"});
}

TEST_F(ToolDump, shows_programs_maps_globals_and_source_lines) {
    const std::string index = std::filesystem::path{HARENA_E2E_WORD_INDEX}.parent_path() / "word_index.bpf.o";
    const Outcome outcome = harena({"dump", index});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    for (const std::string part :
         {"arena  ", "1048560 pages at any address", "table ", "struct word_table, 32 bytes at .addr_space.1",
          "bpf_arena_alloc_pages  function, weak", "program count_words (syscall), section syscall", "r1 = map arena",
          "call bpf_arena_alloc_pages", "addr_space_cast(", "may_goto ", "word_index.bpf.c:", "exit"})
        EXPECT_TRUE(has(outcome.out, part)) << part;
    EXPECT_FALSE(has(outcome.out, "(invalid"));
}

TEST_F(ToolDump, json_has_the_globals_with_their_types) {
    const std::string index = std::filesystem::path{HARENA_E2E_WORD_INDEX}.parent_path() / "word_index.bpf.o";
    const json result = json::parse(harena({"dump", index, "--json"}).out);
    const auto table = std::ranges::find_if(result["globals"], [](const json& g) { return g["name"] == "table"; });
    ASSERT_NE(table, result["globals"].end());
    EXPECT_EQ((*table)["section"], ".addr_space.1");
    EXPECT_EQ((*table)["offset"], 0);
    EXPECT_EQ((*table)["size"], 32);
    EXPECT_EQ((*table)["type"], "struct word_table");
}

TEST_F(ToolDump, json_has_the_documented_keys) {
    const Outcome outcome = harena({"dump", object("faults"), "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out);
    EXPECT_EQ(result["license"], "GPL");
    EXPECT_EQ(result["maps"][0]["name"], "arena");
    EXPECT_EQ(result["maps"][0]["type"], "ARENA");
    EXPECT_EQ(result["maps"][0]["max_entries"], 16);
    EXPECT_EQ(result["maps"][0]["map_extra"], std::uint64_t{1} << 44);
    EXPECT_TRUE(result["globals"].is_array());
    EXPECT_TRUE(result["externs"].is_array());
    EXPECT_TRUE(result["functions"].is_array());
    ASSERT_EQ(result["programs"].size(), 2U);
    const json& program = result["programs"][0];
    EXPECT_EQ(program["name"], "one_of_each");
    EXPECT_EQ(program["section"], "syscall");
    EXPECT_EQ(program["type"], "syscall");
    EXPECT_EQ(program["autoload"], true);
    EXPECT_EQ(program["instructions"][0]["index"], 0);
    EXPECT_EQ(program["instructions"].back()["text"], "exit");
    EXPECT_TRUE(program["instructions"][0]["line"].is_number_unsigned());
    EXPECT_TRUE(program["instructions"][0]["source"].is_string());
}

TEST_F(ToolDump, source_text_reaches_the_terminal_escaped) {
    const std::string source = file("red.bpf.c",
                                    "__attribute__((section(\"syscall\"))) int red(void* ctx) {\n"
                                    "    return 1; /* \x1b[31m red \xff */ }\n");
    ASSERT_EQ(harena({"cc", source, "--", "-Wno-invalid-utf8"}).status, 0);
    const Outcome text = harena({"dump", path("red.bpf.o")});
    EXPECT_EQ(text.status, 0) << text.err;
    EXPECT_TRUE(has(text.out, " red ")) << text.out;
    EXPECT_FALSE(has(text.out, "\x1b"));
    EXPECT_FALSE(has(text.out, "\xff"));
    const Outcome as_json = harena({"dump", path("red.bpf.o"), "--json"});
    EXPECT_TRUE(json::accept(as_json.out));
    EXPECT_FALSE(has(as_json.out, "\x1b"));
}

TEST_F(ToolDoctor, says_what_there_is_and_what_is_used) {
    const Outcome text = harena({"doctor"});
    EXPECT_EQ(text.status, 0) << text.err;
    for (const std::string part : {"userfaultfd", "address 1 << 44", "clang for BPF", "memfd_secret", "RLIMIT_FSIZE",
                                   "RLIMIT_NOFILE", "mappings", "harena uses"})
        EXPECT_TRUE(has(text.out, part)) << part;

    const Outcome outcome = harena({"doctor", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out);
    for (const std::string key :
         {"kernel", "userfaultfd", "address_1_44", "clang", "bpf_headers", "kernel_bpf", "memfd_secret",
          "transparent_hugepage", "shmem_hugepage", "collapse", "text", "live_patches", "hugetlb", "mappings",
          "rlimit_fsize", "rlimit_as", "rlimit_memlock", "rlimit_nofile"}) {
        EXPECT_TRUE(result["findings"][key]["good"].is_boolean()) << key;
        EXPECT_TRUE(result["findings"][key]["found"].is_string()) << key;
        EXPECT_TRUE(result["findings"][key]["enable"].is_string()) << key;
    }
    for (const std::string key : {"arenas", "engine", "pools", "text", "secrets", "compiler"})
        EXPECT_TRUE(result["uses"][key].is_string()) << key;
}

}  // namespace
}  // namespace harena::e2e
