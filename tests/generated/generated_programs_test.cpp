// SPDX-License-Identifier: Apache-2.0
//
// Whatever a program is made of, it ends with a precise error or runs to its end, and the host is unharmed.
#include <random>
#include <string>

#include <gtest/gtest.h>

#include "tests/generated/untrusted_program.hpp"

namespace harena::bpf::test {
namespace {

constexpr std::uint64_t k_seed = 20261120;
constexpr int k_well_formed = 12'000;
constexpr int k_malformed = 6'000;

// One line that says where, as far as the error is about an instruction.
void expect_precise(const std::string& error) {
    EXPECT_FALSE(error.empty());
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_NE(error.find("instruction"), std::string::npos) << error;
}

TEST(GeneratedPrograms, well_formed_ones_never_harm_the_host) {
    std::mt19937_64 random{k_seed};
    int to_end = 0;
    int ended_by_errors = 0;
    std::uint64_t faults = 0;
    for (int i = 0; i < k_well_formed; ++i) {
        const UntrustedOutcome outcome = run_untrusted(generate_well_formed(random));
        ASSERT_EQ(outcome.harm, "") << "program " << i;
        ASSERT_TRUE(outcome.loaded) << "program " << i << ": " << outcome.error;
        if (!outcome.ran_to_end) expect_precise(outcome.error);
        to_end += outcome.ran_to_end ? 1 : 0;
        ended_by_errors += outcome.ran_to_end ? 0 : 1;
        faults += outcome.faults;
    }
    // The generator is worth its time only if programs get far: through arena faults, to errors and to their ends.
    EXPECT_GT(to_end, k_well_formed / 20);
    EXPECT_GT(ended_by_errors, k_well_formed / 20);
    EXPECT_GT(faults, 1000U);
    RecordProperty("ran_to_end", to_end);
}

TEST(GeneratedPrograms, malformed_ones_are_refused_or_never_harm_the_host) {
    std::mt19937_64 random{k_seed + 1};
    int refused = 0;
    for (int i = 0; i < k_malformed; ++i) {
        const UntrustedOutcome outcome = run_untrusted(generate_malformed(random));
        ASSERT_EQ(outcome.harm, "") << "program " << i;
        if (!outcome.ran_to_end) expect_precise(outcome.error);
        refused += outcome.loaded ? 0 : 1;
    }
    EXPECT_GT(refused, k_malformed / 3);
}

}  // namespace
}  // namespace harena::bpf::test
