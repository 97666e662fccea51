// SPDX-License-Identifier: Apache-2.0
// The demo in both engines, for the record: oracle.load and oracle.run. `harena_oracle_bench [--json FILE]`.
// Ours is the engine of this process (an interpreter so far), the peer is Linux.
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "harena/base/compare_bench.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/object.hpp"
#include "harena/kernel/kernel_engine.hpp"

namespace harena::kernel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int k_rounds = 15;
constexpr std::uint64_t k_text_bytes = 256 * k_kib;

struct Times {
    double load_us = 0;
    double run_us = 0;
};

/// A text of many different words, the same in every round.
std::string make_text() {
    std::string text;
    std::uint32_t state = 1;
    while (text.size() < k_text_bytes) {
        state = state * 1664525 + 1013904223;
        text += fmt::format("w{} ", (state >> 16) % 5000);
    }
    return text;
}

double since(Clock::time_point begin) {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/// Loads the demo afresh, gives it the text, runs it once.
Result<Times> measure(bpf::Engine& engine, const std::string& text) {
    Times times;
    HARENA_TRY(bpf::Object object, bpf::Object::open(HARENA_BENCH_OBJECT));
    const Clock::time_point begin = Clock::now();
    HARENA_CHECK_OK(object.load(engine));
    times.load_us = since(begin);

    HARENA_TRY(const std::shared_ptr<Arena> arena, object.arena());
    HARENA_CHECK_OK(arena->reserve_pages(arena->data(), PageCount{1}));
    std::byte* const at = arena->data() + k_page_size;
    std::memcpy(at, text.data(), text.size());
    HARENA_TRY(std::byte * * const text_global, object.global<std::byte*>("text"));
    HARENA_TRY(std::uint64_t* const length, object.global<std::uint64_t>("text_length"));
    *text_global = at;
    *length = text.size();
    HARENA_TRY(bpf::Program* const program, object.program("count_words"));
    bpf::RunOptions options;
    options.budget_ns = 60'000'000'000;
    options.measure_time = true;
    HARENA_TRY(const bpf::RunResult result, program->run({}, options));
    if (result.return_value != 0)
        return fail(EINVAL, "{}: count_words returned {}", engine.name(), result.return_value);
    times.run_us = static_cast<double>(result.duration_ns) / 1000;
    return times;
}

Result<void> measure_all(bench::Report& report) {
    const std::string text = make_text();
    std::vector<double> loads[2];
    std::vector<double> runs[2];
    bpf::Engine* const engines[2] = {&bpf::Engine::process(), &engine()};
    for (int round = 0; round <= k_rounds; ++round)
        for (int i = 0; i < 2; ++i) {
            HARENA_TRY(const Times times, measure(*engines[i], text));
            if (round == 0) continue;  // warms up
            loads[i].push_back(times.load_us);
            runs[i].push_back(times.run_us);
        }
    report.add("oracle.load", {bench::median(loads[0]), bench::median(loads[1])}, "Linux", "us");
    report.add("oracle.run", {bench::median(runs[0]), bench::median(runs[1])}, "Linux", "us",
               "interpreter against JIT");
    return {};
}

}  // namespace
}  // namespace harena::kernel

int main(int argc, char** argv) {
    harena::bench::Report report;
    if (const auto tried = harena::kernel::try_engine(); !tried) {
        harena::bench::Report::skip("oracle", tried.error().message());
    } else if (const auto measured = harena::kernel::measure_all(report); !measured) {
        fmt::print(stderr, "harena_oracle_bench: {}\n", measured.error().message());
        return 1;
    }
    return report.write(argc, argv);
}
