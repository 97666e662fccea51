// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/command.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace harena::e2e {

namespace {

std::string quoted(const std::string& argument) {
    std::string text = "'";
    for (const char c : argument) {
        if (c == '\'')
            text += "'\\''";
        else
            text += c;
    }
    return text + "'";
}

std::string contents_of(const std::filesystem::path& path) {
    std::ifstream file{path, std::ios::binary};
    return {std::istreambuf_iterator<char>{file}, {}};
}

}  // namespace

CommandTest::CommandTest() {
    std::string pattern = testing::TempDir() + "/harena-e2e-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
}

CommandTest::~CommandTest() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
}

Outcome CommandTest::run(const std::vector<std::string>& arguments) const {
    const std::filesystem::path out = folder_ / ".stdout";
    const std::filesystem::path err = folder_ / ".stderr";
    std::string line = "cd " + quoted(folder_.string()) + " && exec";
    for (const std::string& argument : arguments) line += " " + quoted(argument);
    line += " </dev/null >" + quoted(out.string()) + " 2>" + quoted(err.string());
    const int status = std::system(line.c_str());
    const int exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return {.status = exit_status, .out = contents_of(out), .err = contents_of(err)};
}

Outcome CommandTest::harena(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), HARENA_E2E_TOOL);
    return run(arguments);
}

Outcome CommandTest::tiny_jit(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), HARENA_E2E_TINY_JIT);
    return run(arguments);
}

Outcome CommandTest::word_index(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), HARENA_E2E_WORD_INDEX);
    return run(arguments);
}

std::string CommandTest::file(const std::string& name, std::string_view contents) const {
    std::ofstream stream{folder_ / name, std::ios::binary};
    stream.write(contents.data(), static_cast<std::streamsize>(contents.size()));
    return path(name);
}

std::string CommandTest::object(const std::string& name) {
    return std::string{HARENA_E2E_OBJECTS} + "/" + name + ".bpf.o";
}

void expect_bad_input(const Outcome& outcome, const std::vector<std::string>& words) {
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("harena: ")) << outcome.err;
    EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
    EXPECT_TRUE(outcome.err.ends_with('\n')) << outcome.err;
    for (const std::string& word : words)
        EXPECT_NE(outcome.err.find(word), std::string::npos) << "no '" << word << "' in: " << outcome.err;
}

}  // namespace harena::e2e
