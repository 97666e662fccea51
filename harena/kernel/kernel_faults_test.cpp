// SPDX-License-Identifier: Apache-2.0
// Whether all faults of a run are known, and that those that are not are not taken for none.
#include <sched.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <memory>
#include <span>
#include <stop_token>
#include <thread>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/test_programs.hpp"
#include "harena/kernel/child_process_test.hpp"
#include "harena/kernel/fault_tap.hpp"
#include "harena/kernel/refusal.hpp"
#include "harena/kernel/test_support.hpp"

namespace harena::kernel::test {
namespace {

class KernelFaults : public KernelTest {
protected:
    void SetUp() override {
        KernelTest::SetUp();
        if (IsSkipped()) return;
        if (const auto report = try_engine(); !report->no_faults.empty()) GTEST_SKIP() << report->no_faults;
    }
};

/// Reads and writes an absent page: two faults.
Result<bpf::RunResult> run_with_two_faults(const bpf::Object& object) {
    HARENA_TRY(const auto arena, object.arena());
    std::array<std::uint64_t, 3> context{arena->user_vm_start().value() + 5 * k_page_size, 1, 88};
    HARENA_TRY(bpf::Program* const program, object.program("follow"));
    return program->run(std::as_writable_bytes(std::span{context}));
}

/// Loads and runs in this process.
Result<bpf::RunResult> load_and_run() {
    HARENA_TRY(bpf::Object object, bpf::Object::open(KernelTest::object("engine")));
    HARENA_CHECK_OK(object.load(engine()));
    return run_with_two_faults(object);
}

Child knows_two_faults() {
    const auto result = load_and_run();
    return result && result->faults_known && result->fault_count == 2 ? Child::right : Child::wrong;
}

Child knows_that_it_does_not_know() {
    const auto result = load_and_run();
    return result && !result->faults_known && result->fault_count == 0 ? Child::right : Child::wrong;
}

int number_in(const char* file) {
    std::ifstream in{file};
    int number = -1;
    in >> number;
    return number;
}

TEST_F(KernelFaults, without_the_addresses_of_programs_they_are_not_known_and_the_trial_says_why) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    if (number_in("/proc/sys/kernel/kptr_restrict") == 0 && number_in("/proc/sys/kernel/perf_event_paranoid") < 2)
        GTEST_SKIP() << "this kernel shows addresses to everybody";
    const Child child = forked([] {
        if (!keep_capabilities(k_engine_capabilities)) return Child::cannot;
        const auto report = try_engine();
        if (!report || report->no_faults.find("CAP_SYSLOG") == std::string::npos) return Child::wrong;
        return knows_that_it_does_not_know();
    });
    EXPECT_EQ(child, Child::right);
}

TEST_F(KernelFaults, a_process_in_a_PID_namespace_knows_its_own) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    const Child child = forked([] {
        if (::unshare(CLONE_NEWPID) != 0) return Child::cannot;
        return forked([] {
            if (::getpid() != 1) return Child::cannot;
            const auto report = try_engine();
            return report && report->no_faults.empty() ? knows_two_faults() : Child::wrong;
        });
    });
    EXPECT_EQ(child, Child::right);
}

TEST_F(KernelFaults, a_child_after_fork_knows_those_of_its_own_programs) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    ASSERT_EQ(knows_two_faults(), Child::right);
    EXPECT_EQ(forked(&knows_two_faults), Child::right);
    EXPECT_EQ(knows_two_faults(), Child::right);
}

TEST_F(KernelFaults, a_failing_call_makes_them_unknown) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    for (std::uint64_t skip = 0;; ++skip) {
        const bpf::Object object = loaded("engine");
        os::FailCall injector{os::Call::bpf_program_info, ENOMEM, skip, os::FailCall::Repeat::always};
        const os::ScopedFaultInjector scoped{injector};
        const auto result = run_with_two_faults(object);
        ASSERT_TRUE(result) << result.error().message();
        if (injector.seen() <= skip) {
            EXPECT_GT(skip, 0U);
            EXPECT_TRUE(result->faults_known);
            break;
        }
        EXPECT_FALSE(result->faults_known) << skip;
        EXPECT_EQ(result->fault_count, 0U);
    }
    // The tap is made once a process.
    for (const os::Call call : {os::Call::bpf_attach, os::Call::bpf_program_load, os::Call::bpf_program_run,
                                os::Call::bpf_map_create, os::Call::mmap, os::Call::madvise}) {
        const Child child = forked([call] {
            const bpf::Object object = loaded("engine");
            os::FailCall injector{call, EACCES, 0, os::FailCall::Repeat::always};
            const os::ScopedFaultInjector scoped{injector};
            const auto tap = FaultTap::get();
            return !tap && tap.error().code() == EACCES ? Child::right : Child::wrong;
        });
        EXPECT_EQ(child, Child::right) << static_cast<int>(call);
    }
    EXPECT_EQ(forked([] {
                  os::FailCall injector{os::Call::bpf_attach, EACCES, 0, os::FailCall::Repeat::always};
                  const os::ScopedFaultInjector scoped{injector};
                  return knows_that_it_does_not_know();
              }),
              Child::right);
}

/// As many stores to one absent page as the context says.
bpf::ObjectFile many_faults() {
    using namespace bpf::test;
    ObjectBuilder builder;
    builder.arena(16, arena_address());
    builder.program("main", join({load(bpf::Size::dw, r3, r1, 0), map_address(r1, 0),
                                  imm64(r2, arena_address() + 5 * k_page_size), to_program(r2, r2), may_goto(4),
                                  jump_if(bpf::JmpOp::jeq, r3, 0, 3), store(bpf::Size::dw, r2, 0, 1), add(r3, -1),
                                  jump(-5), mov(r0, 0), exit()}));
    return builder.build();
}

Result<bpf::RunResult> run_with_faults(const bpf::LoadedObject& object, std::uint64_t count) {
    return object.programs.front()->run(std::as_writable_bytes(std::span{&count, 1}));
}

TEST_F(KernelFaults, more_than_are_kept_are_not_all_known) {
    const auto object = engine().load(std::make_shared<const bpf::ObjectFile>(many_faults()), {}, {});
    ASSERT_TRUE(object) << object.error().message();
    const auto most = run_with_faults(*object, 16'384);
    ASSERT_TRUE(most);
    EXPECT_EQ(most->fault_count, 16'384U);
    EXPECT_TRUE(most->faults_known);
    const auto more = run_with_faults(*object, 20'000);
    ASSERT_TRUE(more);
    EXPECT_FALSE(more->faults_known);
}

TEST_F(KernelFaults, those_that_other_threads_push_out_meanwhile_are_not_taken_for_none) {
    const auto object = engine().load(std::make_shared<const bpf::ObjectFile>(many_faults()), {}, {});
    ASSERT_TRUE(object) << object.error().message();
    // The kernel takes a page fault for each byte that it cannot read.
    const std::jthread other{[](const std::stop_token& stop) {
        std::array<int, 2> pipe{-1, -1};
        if (::pipe(pipe.data()) != 0) return;
        while (!stop.stop_requested()) (void)!::write(pipe[1], reinterpret_cast<const void*>(k_page_size), 1);
        ::close(pipe[0]);
        ::close(pipe[1]);
    }};
    // As many that they and the other thread's are just kept: some are then pushed out while they are read.
    std::uint64_t count = 8'000;
    constexpr std::uint64_t k_step = 100;
    for (int round = 0; round < 150; ++round) {
        const auto result = run_with_faults(*object, count);
        ASSERT_TRUE(result);
        if (result->faults_known) {
            EXPECT_EQ(result->fault_count, count);
        }
        count = result->faults_known ? std::min<std::uint64_t>(count + k_step, 16'384)
                                     : std::max(count, 2 * k_step) - k_step;
    }
}

TEST_F(KernelFaults, the_line_is_right_behind_code_that_the_verifier_removed) {
    const bpf::Object object =
        loaded("removed_code",
               {.arena_address = bpf::test::arena_address(), .arena_pages = std::nullopt, .also_load = {}});
    std::uint64_t context = 1;
    const auto result =
        object.program("after_removed_code").value()->run(std::as_writable_bytes(std::span{&context, 1}));
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_TRUE(result->faults_known);
    ASSERT_EQ(result->fault_count, 2U);
    EXPECT_NE(result->faults[0].place.find("// reads"), std::string::npos) << result->faults[0].place;
    EXPECT_NE(result->faults[1].place.find("// writes"), std::string::npos) << result->faults[1].place;
}

}  // namespace
}  // namespace harena::kernel::test
