// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <gtest/gtest.h>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

using BadInput = CommandTest;

TEST_F(BadInput, missing_file_is_named) {
    for (const std::string command : {"run", "dump"})
        expect_bad_input(harena({command, path("absent.bpf.o")}), {path("absent.bpf.o"), "No such file"});
    expect_bad_input(harena({"cc", path("absent.bpf.c")}), {path("absent.bpf.c"), "no such file"});
    expect_bad_input(harena({"run", path("absent.bpf.c")}), {path("absent.bpf.c"), "no such file"});
}

TEST_F(BadInput, folder_is_no_object) {
    for (const std::string command : {"run", "dump"}) expect_bad_input(harena({command, path(".")}), {path(".")});
    expect_bad_input(harena({"cc", path(".")}), {path("."), "folder"});
}

TEST_F(BadInput, what_is_not_elf_is_refused) {
    for (const std::string command : {"run", "dump"}) {
        expect_bad_input(harena({command, file("text.bpf.o", "just some text\n")}), {"text.bpf.o", "ELF"});
        expect_bad_input(harena({command, file("empty.bpf.o", "")}), {"empty.bpf.o", "ELF"});
    }
}

TEST_F(BadInput, object_for_another_machine_is_refused) {
    for (const std::string command : {"run", "dump"})
        expect_bad_input(harena({command, HARENA_E2E_OTHER_MACHINE}), {HARENA_E2E_OTHER_MACHINE, "machine", "BPF"});
}

TEST_F(BadInput, object_without_btf_is_refused) {
    for (const std::string command : {"run", "dump"})
        expect_bad_input(harena({command, object("answer_without_btf")}), {"answer_without_btf", "BTF", "-g"});
}

TEST_F(BadInput, unknown_helper_is_named_with_its_place) {
    expect_bad_input(harena({"run", object("unknown_helper")}),
                     {"unknown_helper.bpf.o", "9999", "call_it", "unknown_helper.bpf.c:"});
}

TEST_F(BadInput, two_arenas_are_named) {
    expect_bad_input(harena({"run", object("two_arenas")}), {"two_arenas.bpf.o", "first_arena", "second_arena"});
}

TEST_F(BadInput, arena_of_five_gib_is_named) {
    expect_bad_input(harena({"run", object("five_gib")}), {"five_gib.bpf.o", "huge_arena", "4 GiB"});
}

TEST_F(BadInput, address_that_is_occupied_is_named_with_its_mapping) {
    if (run({"setarch", "-R", "true"}).status != 0) GTEST_SKIP() << "address randomisation cannot be switched off here";
    // Without randomisation, a position-independent program is at this address on x86-64.
    expect_bad_input(run({"setarch", "-R", HARENA_E2E_TOOL, "run", object("faults"), "--program", "many",
                          "--arena-address", "0x555555500000"}),
                     {"faults.bpf.o", "arena", "0x555500000000", "/harena"});
}

TEST_F(BadInput, arena_address_must_be_an_address) {
    expect_bad_input(harena({"run", object("faults"), "--program", "many", "--arena-address", "0x123"}),
                     {"faults.bpf.o", "0x123"});
    expect_bad_input(harena({"run", object("faults"), "--program", "many", "--arena-address", "north"}),
                     {"--arena-address", "north"});
}

TEST_F(BadInput, unknown_program_is_named_with_those_that_exist) {
    expect_bad_input(harena({"run", object("choices"), "--program", "third"}),
                     {"choices.bpf.o", "third", "first", "second", "on_request"});
}

TEST_F(BadInput, choice_of_programs_needs_a_name) {
    expect_bad_input(harena({"run", object("choices")}),
                     {"choices.bpf.o", "--program", "first", "second", "on_request"});
}

TEST_F(BadInput, context_file_must_be_readable_and_small_enough) {
    const auto with_context = [&](const std::string& context) {
        return harena({"run", object("context"), "--program", "twice", "--ctx", context});
    };
    expect_bad_input(with_context(path("absent.ctx")), {path("absent.ctx"), "No such file"});
    expect_bad_input(with_context(path(".")), {path(".")});
    expect_bad_input(with_context(file("large.ctx", std::string(65536, 'x'))), {"large.ctx", "65536", "65535"});
}

TEST_F(BadInput, budget_must_be_a_number) {
    for (const std::string budget : {"soon", "-1", "1e99", "99999999999999999999"})
        expect_bad_input(harena({"run", object("answer"), "--budget-ms", budget}), {"--budget-ms", budget});
}

TEST_F(BadInput, command_line_without_a_command_or_with_an_unknown_one) {
    expect_bad_input(harena({}), {"subcommand"});
    expect_bad_input(harena({"frobnicate"}), {"frobnicate", "run", "doctor"});
    expect_bad_input(harena({"run"}), {"FILE"});
    expect_bad_input(harena({"run", object("answer"), "--frobnicate"}), {"--frobnicate"});
}

TEST_F(BadInput, names_with_control_characters_reach_the_terminal_escaped) {
    const Outcome outcome = harena({"dump", path("red\x1b[31m\nfile.bpf.o")});
    expect_bad_input(outcome, {"file.bpf.o"});
    EXPECT_EQ(outcome.err.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace harena::e2e
