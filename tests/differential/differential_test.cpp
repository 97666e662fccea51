// SPDX-License-Identifier: Apache-2.0
// The engine of the process against Linux itself, case by case.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <regex>
#include <thread>

#include <gtest/gtest.h>

#include "harena/base/os/process.hpp"
#include "harena/base/os/system_info.hpp"
#include "harena/kernel/kernel_engine.hpp"
#include "tests/differential/compare.hpp"
#include "tests/differential/expected_differences.hpp"

namespace harena::bpf::differential {
namespace {

using Json = nlohmann::json;

/// "6.18.44-…" is 618.
int kernel_version() {
    const std::string release = os::kernel_release();
    int major = 0;
    int minor = 0;
    if (std::sscanf(release.c_str(), "%d.%d", &major, &minor) != 2) return 0;
    return major * 100 + minor;
}

bool is_of_set(std::string_view name, std::string_view set) {
    return name == "generated" ? set.starts_with("generated") : name == set;
}

bool matches(std::string_view pattern, const std::string& text) {
    return std::regex_search(text, std::regex{std::string{pattern}});
}

/// Runs a set in one engine, in a process of its own.
std::optional<Json> run(const std::string& engine, const std::string& set, const std::filesystem::path& file) {
    const auto status = os::run_program({HARENA_DIFFERENTIAL_RUNNER, engine, set, file.string()});
    if (!status || *status != 0) {
        ADD_FAILURE() << "the runner of set " << set << " in engine " << engine << " ended with "
                      << (status ? std::to_string(*status) : os::describe(status.error()));
        return std::nullopt;
    }
    std::ifstream in{file, std::ios::binary};
    return Json::from_cbor(in);
}

class Differential : public testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        const auto tried = kernel::try_engine();
        if (!tried) GTEST_SKIP() << tried.error().message();
        if (!tried->no_faults.empty()) GTEST_SKIP() << "faults cannot be compared: " << tried->no_faults;
        folder_ =
            std::filesystem::temp_directory_path() / fmt::format("harena_differential_{}_{}", GetParam(), ::getpid());
        std::filesystem::create_directories(folder_);
    }
    void TearDown() override {
        if (!folder_.empty()) std::filesystem::remove_all(folder_);
    }

    std::filesystem::path folder_;
};

TEST_P(Differential, what_programs_leave_behind_is_equal) {
    const std::string& set = GetParam();
    std::optional<Json> process;
    std::optional<Json> kernel;
    {
        const std::jthread other{[&] { kernel = run("kernel", set, folder_ / "kernel"); }};
        process = run("process", set, folder_ / "process");
    }
    ASSERT_TRUE(process && kernel);
    ASSERT_EQ(process->size(), kernel->size());
    ASSERT_FALSE(process->empty());

    const int version = kernel_version();
    std::vector<const ExpectedDifference*> expected;
    for (const ExpectedDifference& one : k_expected_differences)
        if (is_of_set(one.set, set) && version < one.until) expected.push_back(&one);
    std::vector<std::size_t> covered(expected.size());
    std::vector<std::pair<std::regex, std::regex>> patterns;
    for (const ExpectedDifference* const one : expected)
        patterns.emplace_back(std::string{one->case_name}, std::string{one->difference});

    std::array<std::size_t, k_joint_refusals.size()> refusals{};
    std::size_t ran = 0;
    std::size_t refused = 0;
    std::size_t different = 0;
    for (std::size_t i = 0; i < process->size(); ++i) {
        const auto name = (*process)[i]["name"].get<std::string>();
        ASSERT_EQ(name, (*kernel)[i]["name"].get<std::string>());
        const Comparison comparison = compare((*process)[i], (*kernel)[i]);
        ran += comparison.ran ? 1U : 0U;
        refused += comparison.refused ? 1U : 0U;
        different += comparison.differences.empty() ? 0U : 1U;
        if (comparison.refused && !(*process)[i].contains("refusal")) {
            const auto* const known = std::ranges::find_if(k_joint_refusals, [&](const JointRefusal& one) {
                return is_of_set(one.set, set) && matches(one.case_name, name);
            });
            if (known == k_joint_refusals.end())
                ADD_FAILURE() << name << ": both refuse it: " << (*process)[i]["load_error"]["message"];
            else
                ++refusals[static_cast<std::size_t>(known - k_joint_refusals.begin())];
        }
        for (const std::string& difference : comparison.differences) {
            bool is_expected = false;
            for (std::size_t e = 0; e < expected.size() && !is_expected; ++e) {
                is_expected =
                    std::regex_search(name, patterns[e].first) && std::regex_search(difference, patterns[e].second);
                covered[e] += is_expected ? 1U : 0U;
            }
            EXPECT_TRUE(is_expected) << name << ": " << difference;
        }
    }
    for (std::size_t e = 0; e < expected.size(); ++e)
        EXPECT_TRUE(covered[e] > 0 || expected[e]->set == "generated")
            << "nothing is different any more: " << expected[e]->case_name << ", " << expected[e]->difference;
    for (std::size_t r = 0; r < refusals.size(); ++r)
        EXPECT_TRUE(refusals[r] > 0 || !is_of_set(k_joint_refusals[r].set, set))
            << "nothing is refused by both any more: " << k_joint_refusals[r].case_name;
    const auto* const minimum =
        std::ranges::find_if(k_minima, [&](const Minimum& one) { return is_of_set(one.set, set); });
    ASSERT_NE(minimum, k_minima.end());
    EXPECT_GE(ran, minimum->cases);
    fmt::print(
        "{}: {} cases, {} ran in both engines without an error, {} with expected differences, {} refused by both\n",
        set, process->size(), ran, different, refused);
}

INSTANTIATE_TEST_SUITE_P(Sets, Differential,
                         testing::Values("objects", "creation", "calls", "accesses", "casts", "arithmetic",
                                         "generated0", "generated1", "generated2", "generated3"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace harena::bpf::differential
