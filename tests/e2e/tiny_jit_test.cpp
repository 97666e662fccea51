// SPDX-License-Identifier: Apache-2.0
#include <string>

#include <gtest/gtest.h>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

class TinyJit : public CommandTest {};

TEST_F(TinyJit, computes_what_the_expression_says) {
    const Outcome outcome = tiny_jit({"3*x*x - (x+1)*2 + -7", "5", "-4", "100000"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.out, "56\n47\n29999799991\n");
}

TEST_F(TinyJit, operators_have_their_usual_order) {
    EXPECT_EQ(tiny_jit({"2+3*4", "0"}).out, "14\n");
    EXPECT_EQ(tiny_jit({"(2+3)*4", "0"}).out, "20\n");
    EXPECT_EQ(tiny_jit({"10-4-3", "0"}).out, "3\n");
}

TEST_F(TinyJit, what_is_no_expression_is_refused) {
    for (const std::string text : {"", "2+", "(x", "x x", "y", "99999999999"}) {
        const Outcome outcome = tiny_jit({text, "1"});
        EXPECT_EQ(outcome.status, 1) << text;
        EXPECT_EQ(outcome.err, "tiny_jit: not an expression: " + text + "\n");
    }
    EXPECT_EQ(tiny_jit({"x"}).status, 2);
}

}  // namespace
}  // namespace harena::e2e
