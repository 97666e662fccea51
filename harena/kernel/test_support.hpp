// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "harena/base/result.hpp"
#include "harena/kernel/kernel_engine.hpp"

namespace harena::kernel::test {

/// Tests that need the kernel's arenas; skipped with the reason where there are none.
class KernelTest : public testing::Test {
protected:
    void SetUp() override {
        if (const auto tried = try_engine(); !tried) GTEST_SKIP() << tried.error().message();
    }
    [[nodiscard]] static std::string object(std::string_view name) {
        return std::string{HARENA_KERNEL_TEST_OBJECTS "/"} + std::string{name} + ".bpf.o";
    }
};

/// That a result is an error of this code whose message has `words` in it.
template <typename T>
[[nodiscard]] testing::AssertionResult refused(const Result<T>& result, int code, std::string_view words) {
    if (result) return testing::AssertionFailure() << "it succeeded";
    const std::string& message = result.error().message();
    if (result.error().code() == code && message.find(words) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << result.error().code() << ": " << message;
}

}  // namespace harena::kernel::test
