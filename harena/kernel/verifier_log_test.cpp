// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/verifier_log.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace harena::kernel {
namespace {

std::string place(std::uint32_t insn) { return fmt::format("at {}", insn); }

TEST(VerifierLog, the_last_instruction_and_the_verdict_are_what_matters) {
    constexpr std::string_view k_log =
        "func#0 @0\n0: R1=ctx() R10=fp0\n; return bytes[ctx->index]; @ context.bpf.c:24\n"
        "4: (61) r1 = *(u32 *)(r1 +4)          ; R1=scalar(smin=0)\n"
        "8: R1=scalar() R2=fp(off=-16)\n8: (91) r0 = *(s8 *)(r2 +0)\n"
        "invalid unbounded variable-offset read from stack R2\n"
        "verification time 120 usec\nstack depth 16\nprocessed 8 insns (limit 1000000) max_states_per_insn 0\n";
    EXPECT_EQ(shortened(k_log, place),
              "at 8: invalid unbounded variable-offset read from stack R2 [8: (91) r0 = *(s8 *)(r2 +0)]");
}

TEST(VerifierLog, verdicts_of_several_lines_are_joined) {
    constexpr std::string_view k_log =
        "4: (85) call pc+2\nGlobal function f() doesn't return scalar. Only those are supported.\n"
        "Caller passes invalid args into func#1 ('f')\nprocessed 5 insns\n";
    EXPECT_EQ(
        shortened(k_log, place),
        "at 4: Global function f() doesn't return scalar. Only those are supported.; Caller passes invalid args into "
        "func#1 ('f') [4: (85) call pc+2]");
}

TEST(VerifierLog, a_refusal_before_the_first_instruction_is_its_last_words) {
    EXPECT_EQ(shortened("unknown opcode 8d\nprocessed 0 insns\n", place), "unknown opcode 8d");
    EXPECT_EQ(shortened("", place), "the verifier gave no reason");
    EXPECT_EQ(shortened("processed 0 insns\n", place), "the verifier gave no reason");
}

TEST(VerifierLog, registers_in_a_verdict_are_not_taken_for_a_state) {
    EXPECT_EQ(shortened("3: (79) r0 = *(u64 *)(r0 +0)\nR0 invalid mem access 'map_value_or_null'\n", place),
              "at 3: R0 invalid mem access 'map_value_or_null' [3: (79) r0 = *(u64 *)(r0 +0)]");
}

TEST(VerifierLog, states_of_a_loop_are_no_part_of_the_verdict) {
    constexpr std::string_view k_log =
        "0: (05) goto pc-1\ninfinite loop detected at insn 0\ncur state: R1=ctx() R10=fp0\n"
        "old state: R1=ctx() R10=fp0\nprocessed 2 insns\n";
    EXPECT_EQ(shortened(k_log, place), "at 0: infinite loop detected at insn 0 [0: (05) goto pc-1]");
}

TEST(VerifierLog, last_lines_leave_out_blank_ones) {
    EXPECT_EQ(last_lines("one\n\n two \n   \n", 1), "two");
    EXPECT_EQ(last_lines("one\n\n two \n", 5), "one; two");
    EXPECT_EQ(last_lines("", 3), "");
}

}  // namespace
}  // namespace harena::kernel
