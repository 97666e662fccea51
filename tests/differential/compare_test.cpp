// SPDX-License-Identifier: Apache-2.0
// That the comparison sees what it is there for: each thing that a case leaves behind, changed in one engine only.
#include "tests/differential/compare.hpp"

#include <cstdint>
#include <functional>

#include <gtest/gtest.h>

namespace harena::bpf::differential {
namespace {

using Json = nlohmann::json;

Json bytes(std::vector<std::uint8_t> values) { return Json::binary(std::move(values)); }

/// A case with everything in it.
Json whole() {
    const Json read{{"write", false}, {"address", 0x200000001000ULL}, {"function", "main"}, {"place", "a.c:3"}};
    const Json write{{"write", true}, {"address", 0x200000002ff9ULL}, {"function", "main"}, {"place", "a.c:4"}};
    const Json run{{"program", "main"},    {"context", bytes({1, 2, 3, 4, 5, 6, 7, 8, 9})},
                   {"value", 17},          {"fault_count", 2},
                   {"faults_known", true}, {"faults", Json::array({read, write})}};
    return {{"name", "a case"},
            {"runs", Json::array({run, run})},
            {"pages", {{"3", bytes(std::vector<std::uint8_t>(4096, 1))}}},
            {"data", {{".bss", bytes({0, 0, 0, 0})}}},
            {"maps", {{"counts", {{"02000000", bytes({5})}}}}}};
}

TEST(Compare, what_is_equal_has_no_differences) {
    const Comparison comparison = compare(whole(), whole());
    EXPECT_TRUE(comparison.differences.empty());
    EXPECT_FALSE(comparison.refused);
    EXPECT_TRUE(comparison.ran);
}

struct Change {
    const char* difference;  // how it begins
    std::function<void(Json&)> make;
};

TEST(Compare, each_change_in_the_kernel_is_a_difference) {
    const Change changes[] = {
        {"runs: not as many", [](Json& one) { one["runs"].erase(1); }},
        {"value: process 17, kernel 18", [](Json& one) { one["runs"][0]["value"] = 18; }},
        {"word 0: ", [](Json& one) { one["runs"][1]["context"].get_binary()[0] = 0; }},
        {"word 1: process 0x9, kernel 0x8", [](Json& one) { one["runs"][0]["context"].get_binary()[8] = 8; }},
        {"word: process 9 bytes", [](Json& one) { one["runs"][0]["context"].get_binary().pop_back(); }},
        {"faults: process 2, kernel 3", [](Json& one) { one["runs"][0]["fault_count"] = 3; }},
        {"faults: kernel does not know", [](Json& one) { one["runs"][0]["faults_known"] = false; }},
        {"fault 0: process READ", [](Json& one) { one["runs"][0]["faults"][0]["write"] = true; }},
        {"fault 0: process READ", [](Json& one) { one["runs"][0]["faults"][0]["address"] = 0x200000001001ULL; }},
        {"straddle 1: process WRITE", [](Json& one) { one["runs"][0]["faults"][1]["address"] = 0x200000003000ULL; }},
        {"straddle 1: process WRITE",
         [](Json& one) {
             one["runs"][0]["faults"][1]["address"] = 0x200000003000ULL;
             one["runs"][0]["faults"][1]["function"] = "";
         }},
        {"place 0: ", [](Json& one) { one["runs"][0]["faults"][0]["place"] = "a.c:5"; }},
        {"run: process 17, kernel error: no",
         [](Json& one) { one["runs"][0]["error"] = {{"code", 5}, {"message", "no"}}; }},
        {"page 3, word 511: ", [](Json& one) { one["pages"]["3"].get_binary()[4095] = 0; }},
        {"page 4: kernel only", [](Json& one) { one["pages"]["4"] = one["pages"]["3"]; }},
        {"page 3: process only", [](Json& one) { one["pages"].erase("3"); }},
        {"pages: not known", [](Json& one) { one["pages"] = nullptr; }},
        {"section .bss, word 0: ", [](Json& one) { one["data"][".bss"].get_binary()[3] = 1; }},
        {"section .bss: process only", [](Json& one) { one.erase("data"); }},
        {"map counts 02000000, word 0: ", [](Json& one) { one["maps"]["counts"]["02000000"].get_binary()[0] = 6; }},
        {"map counts 02000000: process only", [](Json& one) { one["maps"].erase("counts"); }},
        {"map others 01: kernel only", [](Json& one) { one["maps"]["others"]["01"] = bytes({1}); }},
        {"prepare: kernel no", [](Json& one) { one["prepare_error"] = {{"code", 5}, {"message", "no"}}; }},
        {"load: kernel no", [](Json& one) { one["load_error"] = {{"code", 5}, {"message", "no"}}; }},
    };
    for (const Change& change : changes) {
        Json kernel = whole();
        change.make(kernel);
        const Comparison comparison = compare(whole(), kernel);
        EXPECT_FALSE(comparison.refused);
        ASSERT_EQ(comparison.differences.size(), 1U) << change.difference;
        EXPECT_TRUE(comparison.differences[0].starts_with(change.difference)) << comparison.differences[0];
    }
}

TEST(Compare, a_fault_more_is_a_difference_though_the_others_are_equal) {
    Json kernel = whole();
    kernel["runs"][0]["fault_count"] = 1;
    kernel["runs"][0]["faults"].erase(1);
    EXPECT_EQ(compare(whole(), kernel).differences.size(), 1U);
    EXPECT_EQ(compare(kernel, whole()).differences.size(), 1U);
}

TEST(Compare, the_same_error_in_both_is_equal_and_another_is_not) {
    Json process = whole();
    process["runs"][0]["error"] = {{"code", 5}, {"message", "one way to say it"}};
    Json kernel = process;
    kernel["runs"][0]["error"]["message"] = "another";
    EXPECT_TRUE(compare(process, kernel).differences.empty());
    EXPECT_FALSE(compare(process, kernel).ran);
    kernel["runs"][0]["error"]["code"] = 6;
    EXPECT_EQ(compare(process, kernel).differences.size(), 1U);
}

TEST(Compare, of_what_both_refuse_the_errnos_are_compared) {
    Json refused = whole();
    refused["load_error"] = {{"code", 22}, {"message", "no"}};
    const Comparison comparison = compare(refused, refused);
    EXPECT_TRUE(comparison.refused);
    EXPECT_TRUE(comparison.differences.empty());
    EXPECT_FALSE(comparison.ran);
    EXPECT_EQ(compare(refused, whole()).differences.size(), 1U);
    Json otherwise = refused;
    otherwise["load_error"]["code"] = 95;
    const Comparison codes = compare(refused, otherwise);
    EXPECT_TRUE(codes.refused);
    ASSERT_EQ(codes.differences.size(), 1U);
    EXPECT_TRUE(codes.differences[0].starts_with("refusal: process 22 no, kernel 95")) << codes.differences[0];
}

TEST(Compare, what_must_be_refused_is_refused_with_that_errno) {
    Json taken = whole();
    taken["refusal"] = 22;
    EXPECT_EQ(compare(taken, taken).differences.size(), 1U);
    Json refused = taken;
    refused["load_error"] = {{"code", 22}, {"message", "no"}};
    EXPECT_TRUE(compare(refused, refused).differences.empty());
    refused["load_error"]["code"] = 7;
    EXPECT_EQ(compare(refused, refused).differences.size(), 1U);
}

TEST(Compare, a_preparation_that_fails_in_both_is_no_refusal) {
    Json failed = whole();
    failed["prepare_error"] = {{"code", 5}, {"message", "no"}};
    EXPECT_EQ(compare(failed, failed).differences.size(), 2U);
    EXPECT_FALSE(compare(failed, failed).refused);
    EXPECT_FALSE(compare(failed, failed).ran);
}

}  // namespace
}  // namespace harena::bpf::differential
