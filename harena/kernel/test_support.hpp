// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include "harena/base/result.hpp"
#include "harena/bpf/object.hpp"
#include "harena/kernel/kernel_engine.hpp"

namespace harena::kernel::test {

/// Tests that need the kernel's arenas; skipped with the reason where there are none.
class KernelTest : public testing::Test {
public:
    [[nodiscard]] static std::string object(std::string_view name) {
        return std::string{HARENA_KERNEL_TEST_OBJECTS "/"} + std::string{name} + ".bpf.o";
    }
    [[nodiscard]] static bpf::Object loaded(std::string_view name, const bpf::OpenOptions& options = {}) {
        auto opened = bpf::Object::open(object(name), options);
        EXPECT_TRUE(opened) << opened.error().message();
        const auto done = opened->load(engine());
        EXPECT_TRUE(done) << done.error().message();
        return std::move(*opened);
    }

protected:
    void SetUp() override {
        if (const auto tried = try_engine(); !tried) GTEST_SKIP() << tried.error().message();
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
