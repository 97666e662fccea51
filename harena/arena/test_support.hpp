// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "harena/arena/process_arena.hpp"
#include "harena/base/os/file.hpp"
#include "harena/base/test_support.hpp"

/// What the tests of this layer share.
namespace harena::test {

// Each sanitizer takes other parts of the address space for itself.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool k_sanitized = true;
inline constexpr bool k_thread_sanitizer = false;
inline constexpr std::uint64_t k_free_address = std::uint64_t{1} << 45;
#elif defined(__SANITIZE_THREAD__)
inline constexpr bool k_sanitized = true;
inline constexpr bool k_thread_sanitizer = true;  // runs all handlers with all signals blocked
// Not 0x550000000000, where the application's part begins: the guard below the window would be outside of it.
inline constexpr std::uint64_t k_free_address = 0x5502'0000'0000;
#else
inline constexpr bool k_sanitized = false;
inline constexpr bool k_thread_sanitizer = false;
inline constexpr std::uint64_t k_free_address = std::uint64_t{1} << 44;
#endif

/// The arena, or a failed test and null.
inline std::shared_ptr<ProcessArena> make_tuned_arena(const ArenaOptions& options) {
    auto arena = ProcessArena::create(options);
    if (arena) return std::move(*arena);
    ADD_FAILURE() << arena.error().message();
    return nullptr;
}
/// One in which every touch and every free shows at once.
inline std::shared_ptr<ProcessArena> make_arena(ArenaOptions options) {
    options.tuning.exact_presence = true;
    return make_tuned_arena(options);
}
inline std::shared_ptr<ProcessArena> make_arena(std::uint64_t pages) { return make_arena({.pages = PageCount{pages}}); }

inline std::byte* page_at(const ProcessArena& arena, std::uint64_t page) { return arena.data() + page * k_page_size; }
inline std::uint64_t number(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

/// One byte of memory that the compiler must not reason about.
inline volatile unsigned char& byte_at(void* address) { return *static_cast<volatile unsigned char*>(address); }

/// "used reserved": what the arena counts.
inline std::string usage(ProcessArena& arena) {
    const auto statistics = arena.statistics();
    if (!statistics) return statistics.error().message();
    return std::to_string(statistics->used.value()) + " " + std::to_string(statistics->reserved.value());
}

inline std::uint64_t host_faults(ProcessArena& arena) { return arena.statistics().value().host_faults; }

/// A number of "Vm…" of /proc/self/status, in KiB.
inline std::uint64_t status_kib(std::string_view key) {
    const auto file = os::read_file("/proc/self/status");
    if (!file) return 0;
    const std::string text{reinterpret_cast<const char*>(file->data()), file->size()};
    const auto at = text.find(std::string{key} + ":");
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + key.size() + 1, nullptr, 10);
}

/// The body of a death test whose own expectations count: exits with 0 iff none failed.
template <typename Body>
[[noreturn]] void run_as_child(Body&& body) {
    body();
    // The child's own output is not seen, its error stream is.
    const ::testing::TestResult& result = *::testing::UnitTest::GetInstance()->current_test_info()->result();
    for (int i = 0; i < result.total_part_count(); ++i)
        if (const auto& part = result.GetTestPartResult(i); part.failed())
            fmt::print(stderr, "{}:{}: {}\n", part.file_name() == nullptr ? "?" : part.file_name(), part.line_number(),
                       part.message());
    (void)std::fflush(nullptr);
    std::_Exit(::testing::Test::HasFailure() ? 1 : 0);
}

/// Each death test runs in a process of its own, in which nothing was done before: no arena, no signal handler.
class FreshProcess : public ::testing::Test {
protected:
    void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
    void TearDown() override { GTEST_FLAG_SET(death_test_style, "fast"); }

    template <typename Body>
    static void expect_holds(Body&& body) {
        EXPECT_EXIT(run_as_child(body), ::testing::ExitedWithCode(0), "");
    }
};

}  // namespace harena::test
