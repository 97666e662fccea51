// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
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

/// What a child process says of itself.
enum class Child : std::uint8_t { right, wrong, cannot };

/// `in_child` in a forked child.
template <typename Function>
[[nodiscard]] Child forked(Function&& in_child) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(static_cast<int>(in_child()));
    int status = -1;
    if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return Child::wrong;
    return static_cast<Child>(WEXITSTATUS(status));
}

/// Gives up all but these capabilities.
[[nodiscard]] inline bool keep_capabilities(std::uint64_t kept) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
    if (::syscall(SYS_capget, &header, sets) != 0) return false;
    for (std::uint32_t& set : {std::ref(sets[0].effective), std::ref(sets[0].permitted)})
        set &= static_cast<std::uint32_t>(kept);
    for (std::uint32_t& set : {std::ref(sets[1].effective), std::ref(sets[1].permitted)})
        set &= static_cast<std::uint32_t>(kept >> 32);
    return ::syscall(SYS_capset, &header, sets) == 0;
}

/// That a result is an error of this code whose message has `words` in it.
template <typename T>
[[nodiscard]] testing::AssertionResult refused(const Result<T>& result, int code, std::string_view words) {
    if (result) return testing::AssertionFailure() << "it succeeded";
    const std::string& message = result.error().message();
    if (result.error().code() == code && message.find(words) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << result.error().code() << ": " << message;
}

}  // namespace harena::kernel::test
