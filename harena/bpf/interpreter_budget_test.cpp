// SPDX-License-Identifier: Apache-2.0
//
// Every run ends. Budgets of instructions make the tests exact; those of wall time are tiny or huge, never near.
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/signal.hpp"
#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

constexpr std::uint64_t k_hour_ns = 3'600'000'000'000;

/// Limited by instructions only.
RunOptions instructions(std::uint64_t count) {
    return {.budget_ns = k_hour_ns, .grace_ns = k_hour_ns, .max_instructions = count};
}
/// Over at the first tick.
constexpr RunOptions k_at_once{.budget_ns = 0, .grace_ns = 0};

Result<RunResult> run(const Code& code, const RunOptions& options) {
    return ObjectBuilder{}.program("main", code).run({}, options);
}

TEST(Budget, a_may_goto_takes_its_exit_when_the_budget_is_used_up_and_not_before) {
    // Instructions: mov, then rounds of may_goto, add, goto; the exit jumps to the last one.
    const Code counts{mov(r0, 0), may_goto(2), add(r0, 1), jump(-3), exit()};
    for (const std::uint64_t budget : {5ULL, 6ULL, 7ULL, 100ULL, 101ULL, 102ULL, 3001ULL}) {
        // The n-th may_goto, from 0, is instruction number 2 + 3n and leaves if that is above the budget.
        const std::uint64_t rounds = budget < 2 ? 0 : (budget - 2) / 3 + 1;
        const auto result = run(counts, instructions(budget));
        ASSERT_TRUE(result) << result.error().message();
        EXPECT_EQ(result->return_value, rounds) << budget;
    }
}

TEST(Budget, after_it_every_may_goto_takes_its_exit) {
    // Two loops, one after the other: the second makes no round.
    const Code two{mov(r0, 0),  may_goto(2), add(r0, 1), jump(-3),    mov(r6, 0),
                   may_goto(2), add(r6, 1),  jump(-3),   mov(r0, r6), exit()};
    EXPECT_EQ(run(two, instructions(1000)).value().return_value, 0U);
}

TEST(Budget, a_loop_without_may_goto_ends_after_twice_the_budget) {
    EXPECT_TRUE(refused(run({jump(-1), exit()}, instructions(1000)), ETIMEDOUT,
                        "program 'main' instruction 0: the run is over twice its budget of 1000 instructions"));
    // Exact: 1998 instructions of loop are within, and 2000 are not.
    const auto rounds = [](std::int32_t n) {
        return Code{mov(r1, n), add(r1, -1), jump_if(JmpOp::jne, r1, 0, -2), mov(r0, 0), exit()};
    };
    EXPECT_TRUE(run(rounds(999), instructions(1000)));
    EXPECT_TRUE(run(rounds(1000), instructions(1000)));
    EXPECT_TRUE(refused(run(rounds(1001), instructions(1000)), ETIMEDOUT, "instruction 2"));
}

TEST(Budget, code_without_loops_is_not_cut) {
    Code code(100, mov(r0, 1));
    code.push_back(exit());
    EXPECT_TRUE(run(code, instructions(1)));
}

TEST(Budget, a_budget_of_instructions_gives_the_same_result_every_time) {
    ObjectBuilder object;
    object.program("main", {mov(r0, 0), may_goto(4), mov(r6, r0), mov(r1, r6), call_function(1), jump(-5), exit()});
    object.subprogram("next", {mov(r0, r1), add(r0, 1), exit()});
    const LoadedObject loaded = object.load().value();
    const std::uint32_t first = loaded.programs.at(0)->run({}, instructions(10'000)).value().return_value;
    EXPECT_GT(first, 1000U);
    for (int i = 0; i < 10; ++i)
        EXPECT_EQ(loaded.programs.at(0)->run({}, instructions(10'000)).value().return_value, first);
}

// What would go on for ever, each in its way.
struct Endless {
    const char* name;
    ObjectBuilder object;
};
std::vector<Endless> endless_programs() {
    const Code loop_for_ever =
        join({imm64(r1, 1U << 23), function_address(r2, 1), mov(r3, 0), mov(r4, 0), call_helper(181), jump(-8)});
    std::vector<Endless> programs;
    programs.push_back({"a goto to itself", ObjectBuilder{}.program("main", {jump(-1), exit()})});
    programs.push_back({"a long goto", ObjectBuilder{}.program("main", {insn(k_code_ja32, 0, 0, 0, -1), exit()})});
    programs.push_back(
        {"a conditional loop", ObjectBuilder{}.program("main", {mov(r0, 0), jump_if(JmpOp::jeq, r0, 0, -1), exit()})});
    programs.push_back(
        {"a loop that ignores its may_goto", ObjectBuilder{}.program("main", {may_goto(0), jump(-2), exit()})});
    programs.push_back({"a may_goto to itself", ObjectBuilder{}.program("main", {may_goto(-1), jump(-2), exit()})});
    programs.push_back(
        {"callbacks", ObjectBuilder{}.program("main", loop_for_ever).subprogram("callback", {mov(r0, 0), exit()})});
    // 64 calls a level, seven levels, no loop: Linux runs such a program for seconds.
    ObjectBuilder tree;
    tree.program("main", {call_function(1), mov(r0, 0), exit()});
    for (std::int32_t level = 1; level < 7; ++level) {
        Code calls(64, call_function(level + 1));
        calls.push_back(mov(r0, 0));
        calls.push_back(exit());
        tree.subprogram(fmt::format("level{}", level), calls);
    }
    tree.subprogram("leaf", {mov(r0, 0), exit()});
    programs.push_back({"a tree of calls", tree});
    ObjectBuilder faults;
    faults.arena(1).program("main", {mov(r2, 0), to_program(r2, r2), load(Size::b, r0, r2, 0), jump(-2), exit()});
    programs.push_back({"faults", faults});
    ObjectBuilder helpers;
    helpers.program("main", {call_helper(5), jump(-2), exit()});
    programs.push_back({"helper calls", helpers});
    return programs;
}

TEST(Budget, every_endless_program_ends_by_its_instructions) {
    for (const Endless& endless : endless_programs())
        EXPECT_TRUE(refused(endless.object.run({}, instructions(20'000)), ETIMEDOUT,
                            "over twice its budget of 20000 instructions"))
            << endless.name;
}

TEST(Budget, every_endless_program_ends_by_wall_time) {
    for (const Endless& endless : endless_programs())
        EXPECT_TRUE(refused(endless.object.run({}, k_at_once), ETIMEDOUT, "over its budget of 0 ms")) << endless.name;
}

TEST(Budget, faults_of_a_run_that_was_ended_are_in_the_log) {
    ObjectBuilder object;
    object.arena(1).program("main", {mov(r2, 0), to_program(r2, r2), load(Size::b, r0, r2, 0), jump(-2), exit()});
    const LoadedObject loaded = object.load().value();
    EXPECT_TRUE(refused(loaded.programs.at(0)->run({}, instructions(1000)), ETIMEDOUT, ""));
    EXPECT_GE(loaded.programs.at(0)->fault_log().count(), 999U);
    EXPECT_EQ(loaded.programs.at(0)->fault_log().last().size(), FaultLog::k_kept);
}

TEST(Budget, a_loop_with_may_goto_ends_by_wall_time_and_the_program_goes_on) {
    const Code counts{mov(r0, 0), may_goto(1), jump(-2), mov(r0, 77), exit()};
    EXPECT_EQ(run(counts, {.budget_ns = 0, .grace_ns = k_hour_ns}).value().return_value, 77U);
}

TEST(Budget, one_run_that_is_over_its_time_does_not_end_another) {
    // The long one runs until the short one has ended, which it learns from its context.
    ObjectBuilder waits;
    waits.program("main", {load(Size::dw, r2, r1, 0), jump_if(JmpOp::jeq, r2, 0, -2), mov(r0, 5), exit()});
    const LoadedObject loaded = waits.load().value();
    alignas(8) std::array<std::byte, 8> context{};
    std::latch started{1};
    std::uint32_t value = 0;
    std::thread long_run{[&] {
        started.count_down();
        const auto result = loaded.programs.at(0)->run(context, {.budget_ns = k_hour_ns, .grace_ns = k_hour_ns});
        value = result ? result->return_value : 0;
    }};
    started.wait();
    EXPECT_TRUE(refused(run({jump(-1), exit()}, k_at_once), ETIMEDOUT, ""));
    reinterpret_cast<std::atomic<std::uint64_t>*>(context.data())->store(1);
    long_run.join();
    EXPECT_EQ(value, 5U);
}

TEST(Budget, the_result_of_a_run_that_ends_in_time_has_its_duration_if_asked_for) {
    const Code code{mov(r0, 0), exit()};
    EXPECT_EQ(run(code, {}).value().duration_ns, 0U);
    EXPECT_GT(run(code, {.measure_time = true}).value().duration_ns, 0U);
}

TEST(Budget, many_threads_run_one_program_at_once) {
    constexpr int k_threads = 8;
    constexpr std::uint32_t k_rounds = 200;
    ObjectBuilder object;
    object.map("counter", map_type::array, 4, 8, 1).arena(1);
    object.program("main",
                   join({store(Size::w, r10, -4, 0), mov(r2, r10), add(r2, -4), map_address(r1, 0), call_helper(1),
                         mov(r3, 1), atomic(Size::dw, 0, r0, 0, r3), load(Size::dw, r2, r10, -8), mov(r2, 0),
                         to_program(r2, r2), atomic(Size::dw, 0, r2, 0, r3), mov(r0, 0), exit()}));
    const LoadedObject loaded = object.load().value();
    std::latch together{k_threads};
    std::atomic<std::uint32_t> failed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < k_threads; ++i)
        threads.emplace_back([&] {
            together.arrive_and_wait();
            for (std::uint32_t round = 0; round < k_rounds; ++round) {
                const auto result = loaded.programs.at(0)->run({}, instructions(1'000'000));
                failed += result && result->fault_count == 1 ? 0U : 1U;
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(failed.load(), 0U);
    const std::array<std::byte, 4> key{};
    std::uint64_t count = 0;
    std::memcpy(&count, loaded.maps.at(0)->lookup(key).value().data(), sizeof count);
    EXPECT_EQ(count, k_threads * k_rounds);
    EXPECT_EQ(loaded.programs.at(0)->fault_log().count(), k_threads * k_rounds);
    EXPECT_EQ(loaded.arena->statistics().value().program_faults, k_threads * k_rounds);
}

TEST(Budget, a_thread_that_blocks_the_fault_signals_runs_nothing) {
    const LoadedObject loaded = ObjectBuilder{}.program("main", {mov(r0, 1), exit()}).load().value();
    for (const int signal : {SIGBUS, SIGSEGV}) {
        std::thread{[&] {
            sigset_t blocked;
            sigemptyset(&blocked);
            sigaddset(&blocked, signal);
            ASSERT_TRUE(os::thread_sigmask(SIG_BLOCK, &blocked));
            EXPECT_TRUE(refused(loaded.programs.at(0)->run(), EPERM, "block"));
            ASSERT_TRUE(os::thread_sigmask(SIG_UNBLOCK, &blocked));
            EXPECT_TRUE(loaded.programs.at(0)->run()) << "and it runs once they are not";
        }}.join();
    }
}

}  // namespace

}  // namespace harena::bpf
