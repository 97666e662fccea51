// SPDX-License-Identifier: Apache-2.0
// No page of the process is writable and executable, and no mapping of text is writable, at any moment.
#include <atomic>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "harena/base/os/file.hpp"
#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::ok;
using test::returning;

struct Sample {
    std::uint64_t text = 0;
    std::uint64_t executable_text = 0;
    std::uint64_t writable_text = 0;
    std::uint64_t writable_and_executable = 0;
};

Sample sample() {
    Sample out;
    const auto file = os::read_file("/proc/self/maps");
    if (!file) return out;
    std::string_view rest{reinterpret_cast<const char*>(file->data()), file->size()};
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const std::string_view permissions = line.substr(line.find(' ') + 1, 4);
        const bool writable = permissions[1] == 'w';
        const bool executable = permissions[2] == 'x';
        if (writable && executable) ++out.writable_and_executable;
        if (line.find("harena:text") == std::string_view::npos) continue;
        ++out.text;
        if (executable) ++out.executable_text;
        if (writable) ++out.writable_text;
    }
    return out;
}

TEST(TextIsNeverWritable, in_no_sample_of_the_mappings_of_a_whole_run) {
    test::catch_traps();
    if (sample().writable_and_executable != 0)
        GTEST_SKIP() << "something else in this process is writable and executable";
    std::atomic<bool> stop{false};
    std::uint64_t samples = 0;
    Sample worst;
    std::thread watcher{[&] {
        while (!stop.load(std::memory_order_relaxed)) {
            const Sample now = sample();
            worst.text += now.text;
            worst.executable_text += now.executable_text;
            worst.writable_text += now.writable_text;
            worst.writable_and_executable += now.writable_and_executable;
            ++samples;
        }
    }};
    constexpr int k_rounds = test::k_sanitizer ? 3 : 20;
    for (int round = 0; round < k_rounds; ++round) {
        const auto space = TextSpace::create({.max_bytes = 64 * k_mib, .keep_free = 0}).value();
        std::mt19937 random{1};
        std::vector<void*> pieces;
        for (int i = 0; i < 500; ++i) {
            const std::uint64_t bytes = i % 50 == 0 ? 3 * k_mib : 6 + random() % 5000;
            void* const text = space->text_alloc(bytes).value();
            ASSERT_TRUE(ok(space->text_poke(text, returning(1))));
            const auto other = returning(2);
            ASSERT_TRUE(ok(space->text_patch(text, std::span{other}.first(5))));
            pieces.push_back(text);
            if (i % 3 == 0) {
                std::swap(pieces[random() % pieces.size()], pieces.back());
                ASSERT_TRUE(ok(space->text_free(pieces.back())));
                pieces.pop_back();
            }
        }
        {
            const TextSection inside = space->enter().value();
            for (void* const text : pieces) ASSERT_TRUE(ok(space->text_retire(text)));
        }
        ASSERT_TRUE(ok(space->trim()));
    }
    stop = true;
    watcher.join();
    EXPECT_EQ(worst.writable_text, 0U);
    EXPECT_EQ(worst.writable_and_executable, 0U);
    EXPECT_GT(samples, 10U);
    EXPECT_GT(worst.executable_text, 10U) << "text was there to be seen";
}

}  // namespace
}  // namespace harena
