// SPDX-License-Identifier: Apache-2.0
//
// Where a sandbox refuses userfaultfd, for real: the tool says so, and programs run all the same.
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

class Sandbox : public CommandTest {
protected:
    void SetUp() override {
        if (run({HARENA_E2E_WITHOUT_USERFAULTFD, "/bin/true"}).status == 125)
            GTEST_SKIP() << "this machine allows no seccomp filters";
    }
    [[nodiscard]] Outcome sandboxed(std::vector<std::string> command) const {
        command.insert(command.begin(), HARENA_E2E_WITHOUT_USERFAULTFD);
        return run(command);
    }
};

TEST_F(Sandbox, the_doctor_says_what_is_refused_and_what_is_used_instead) {
    const Outcome outcome = sandboxed({HARENA_E2E_TOOL, "doctor", "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const auto json = nlohmann::json::parse(outcome.out);
    const auto& finding = json.at("findings").at("userfaultfd");
    EXPECT_FALSE(finding.at("good").get<bool>());
    EXPECT_NE(finding.at("found").get<std::string>().find("arenas work without it"), std::string::npos) << finding;
    EXPECT_NE(finding.at("enable").get<std::string>().find("seccomp"), std::string::npos) << finding;
    const auto use = json.at("uses").at("arenas").get<std::string>();
    EXPECT_NE(use.find("checked in software"), std::string::npos) << use;
}

TEST_F(Sandbox, a_programs_faults_are_what_they_are_otherwise) {
    const Outcome outcome =
        sandboxed({HARENA_E2E_TOOL, "run", object("faults"), "--program", "one_of_each", "--arena-address", "0"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    for (const std::string_view line : {"returned  11\n", "faults    2\n", "faults.bpf.c:"})
        EXPECT_NE(outcome.out.find(line), std::string::npos) << outcome.out;
}

TEST_F(Sandbox, the_words_of_a_text_are_counted) {
    const std::string text = file("text", "sand is sand, and an arena is of sand\n");
    const Outcome outcome = sandboxed({HARENA_E2E_WORD_INDEX, text});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_NE(outcome.out.find("sand"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace harena::e2e
