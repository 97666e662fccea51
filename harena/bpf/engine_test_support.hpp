// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the tests of the engine share: running code, and saying what came of it.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "harena/bpf/test_programs.hpp"

namespace harena::bpf::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool k_sanitized = true;
#else
inline constexpr bool k_sanitized = false;
#endif

/// What a program left behind: its result and the first 8 bytes of its context, or why it ended.
struct Evaluated {
    int error = 0;
    std::string message;
    std::uint64_t value = 0;
    std::uint64_t faults = 0;
};

/// Runs `body`, which leaves a number in r0 and keeps r9, as the program of `builder`: gives all 64 bits of the number.
/// r1 is a context of 64 bytes.
[[nodiscard]] inline Evaluated evaluate(ObjectBuilder builder, const Code& body) {
    std::array<std::uint64_t, 8> context{};
    builder.program("main", join({mov(r9, r1), body, store(Size::dw, r9, 0, r0), mov(r0, 0), exit()}));
    const auto result = builder.run(std::as_writable_bytes(std::span{context}));
    if (!result) return {.error = result.error().code(), .message = result.error().message()};
    return {.error = 0, .message = {}, .value = context[0], .faults = result->fault_count};
}

/// That a result is an error of this code whose message has `words` in it.
template <typename T>
[[nodiscard]] testing::AssertionResult refused(const Result<T>& result, int code, std::string_view words) {
    if (result) return testing::AssertionFailure() << "it succeeded";
    const std::string& message = result.error().message();
    if (result.error().code() == code && message.find(words) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << result.error().code() << ": " << message;
}
[[nodiscard]] inline testing::AssertionResult refused(const Evaluated& result, int code, std::string_view words) {
    if (result.error == 0) return testing::AssertionFailure() << "it succeeded with " << result.value;
    if (result.error == code && result.message.find(words) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << result.error << ": " << result.message;
}
/// That `body` runs and leaves `value` in r0.
[[nodiscard]] inline testing::AssertionResult gives(const Evaluated& result, std::uint64_t value) {
    if (result.error != 0) return testing::AssertionFailure() << result.error << ": " << result.message;
    if (result.value == value) return testing::AssertionSuccess();
    return testing::AssertionFailure() << fmt::format("{:#x} and not {:#x}", result.value, value);
}

}  // namespace harena::bpf::test
