// SPDX-License-Identifier: Apache-2.0
#include "harena/base/result.hpp"

#include <cerrno>
#include <memory>
#include <string>

#include <gtest/gtest.h>

namespace harena {
namespace {

Result<int> half(int number) {
    if (number % 2 != 0) return fail(EINVAL, "{} is odd", number);
    return number / 2;
}

Result<std::string> quarter(int number, int& evaluated) {
    HARENA_TRY(const int once, half((++evaluated, number)));
    HARENA_TRY(const int twice, half(once));
    return std::to_string(twice);
}

Result<void> check_even(int number) {
    HARENA_CHECK_OK(half(number));
    return {};
}

Result<std::unique_ptr<int>> boxed(int number) {
    HARENA_TRY(auto box, Result<std::unique_ptr<int>>{std::make_unique<int>(number)});
    HARENA_CHECK_OK(check_even(*box));
    return box;
}

TEST(Result, fail_makes_an_error_with_code_and_formatted_sentence) {
    const auto result = half(7);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), EINVAL);
    EXPECT_EQ(result.error().message(), "7 is odd");
}

TEST(Result, in_puts_the_place_in_front_and_keeps_the_code) {
    const Error error = Error{ENOMEM, "no memory"}.in("arena 'a'");
    EXPECT_EQ(error.code(), ENOMEM);
    EXPECT_EQ(error.message(), "arena 'a': no memory");
}

TEST(Result, try_declares_the_value_or_returns_the_error_and_evaluates_once) {
    int evaluated = 0;
    EXPECT_EQ(quarter(12, evaluated).value(), "3");
    EXPECT_EQ(evaluated, 1);
    const auto error = quarter(6, evaluated);
    ASSERT_FALSE(error);
    EXPECT_EQ(error.error().message(), "3 is odd");
    EXPECT_EQ(evaluated, 2);
}

TEST(Result, try_moves_values_that_cannot_be_copied) {
    EXPECT_EQ(*boxed(4).value(), 4);
    EXPECT_EQ(boxed(5).error().code(), EINVAL);
}

TEST(Result, check_ok_passes_the_error_on) {
    EXPECT_TRUE(check_even(2));
    EXPECT_EQ(check_even(3).error().message(), "3 is odd");
}

}  // namespace
}  // namespace harena
