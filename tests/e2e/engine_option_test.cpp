// SPDX-License-Identifier: Apache-2.0
// harena run --engine: the same output from both engines.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

using Json = nlohmann::json;

class EngineOption : public CommandTest {
protected:
    void SetUp() override {
        const Json doctor = Json::parse(harena({"doctor", "--json"}).out);
        const Json& kernel = doctor["findings"]["kernel_bpf"];
        if (!kernel["good"].get<bool>()) GTEST_SKIP() << kernel["found"].get<std::string>();
    }
};

TEST_F(EngineOption, both_engines_say_the_same) {
    for (const char* const program : {"one_of_each", "many"}) {
        Json results[2];
        for (const int i : {0, 1}) {
            const Outcome outcome = harena({"run", object("faults"), "--program", program, "--json", "--arena-address",
                                            "7ec000000000", "--engine", i == 0 ? "process" : "kernel"});
            ASSERT_EQ(outcome.status, 0) << outcome.err;
            results[i] = Json::parse(outcome.out);
            EXPECT_EQ(results[i]["engine"], i == 0 ? "process" : "kernel");
            EXPECT_EQ(results[i]["faults_known"], true);
            results[i].erase("engine");
            results[i].erase("duration_ns");
        }
        EXPECT_EQ(results[0], results[1]);
    }
}

TEST_F(EngineOption, a_program_beside_one_that_the_kernel_refuses_runs) {
    for (const char* const engine : {"process", "kernel"}) {
        const Outcome outcome = harena({"run", object("loops"), "--program", "politely", "--engine", engine});
        EXPECT_EQ(outcome.status, 0) << outcome.err;
    }
    expect_bad_input(harena({"run", object("loops"), "--program", "for_ever", "--engine", "kernel"}),
                     {"for_ever", "infinite loop"});
}

TEST_F(EngineOption, a_refusal_is_one_line_and_with_verbose_the_whole_log) {
    const std::vector<std::string> command{"run", object("context"), "--program", "read_stack", "--engine", "kernel"};
    expect_bad_input(harena(command), {"read_stack", "context.bpf.c:24", "invalid unbounded variable-offset"});
    std::vector<std::string> verbose = command;
    verbose.emplace_back("--verbose");
    const Outcome outcome = harena(verbose);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_NE(outcome.err.find("\nprocessed "), std::string::npos) << outcome.err;
}

TEST_F(EngineOption, what_the_kernel_cannot_do_is_bad_input) {
    expect_bad_input(harena({"run", object("answer"), "--engine", "kernel", "--budget-ms", "5"}),
                     {"--budget-ms", "250 ms"});
    expect_bad_input(harena({"run", object("answer"), "--engine", "moon"}), {"--engine", "moon"});
}

}  // namespace
}  // namespace harena::e2e
