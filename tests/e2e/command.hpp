// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace harena::e2e {

/// What a command that has ended left behind.
struct Outcome {
    int status = -1;  // exit status, or 128 + the signal that ended it
    std::string out;
    std::string err;
};

/// A folder of its own for each test, and the built programs.
class CommandTest : public testing::Test {
protected:
    CommandTest();
    CommandTest(const CommandTest&) = delete;
    CommandTest& operator=(const CommandTest&) = delete;
    ~CommandTest() override;

    /// Runs a program with these arguments; nothing in them has a meaning for the shell.
    [[nodiscard]] Outcome run(const std::vector<std::string>& arguments) const;
    [[nodiscard]] Outcome harena(std::vector<std::string> arguments) const;
    [[nodiscard]] Outcome tiny_jit(std::vector<std::string> arguments) const;
    [[nodiscard]] Outcome word_index(std::vector<std::string> arguments) const;

    [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
    /// Writes a file into the test's folder and returns its path.
    [[nodiscard]] std::string file(const std::string& name, std::string_view contents) const;

    /// The path of a compiled object of this folder's sources.
    [[nodiscard]] static std::string object(const std::string& name);

private:
    std::filesystem::path folder_;
};

/// Fails the test unless `outcome` is exit status 2, nothing on stdout, and one line on stderr that begins with
/// "harena: " and has all of `words` in it.
void expect_bad_input(const Outcome& outcome, const std::vector<std::string>& words);

}  // namespace harena::e2e
