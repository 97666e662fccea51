// SPDX-License-Identifier: Apache-2.0
//
// A child after fork has nothing of its parent's objects, and can have objects of its own.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

/// Runs `body` in a child: it returns 0, or the number of what failed. Gives the child's wait status.
template <typename Body>
int status_of_child(Body&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        ::_exit(body());
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
}

ObjectBuilder counting_object() {
    ObjectBuilder object;
    object.arena(2).map("values", map_type::hash, 8, 8, 4).map("jumps", map_type::prog_array, 4, 4, 1);
    object.program("main", join({load(Size::dw, r2, r1, 0), to_program(r2, r2), load(Size::dw, r0, r2, 0), add(r0, 1),
                                 store(Size::dw, r2, 0, r0), exit()}));
    return object;
}

bool is_owner_dead(const auto& result) { return !result && result.error().code() == EOWNERDEAD; }

// A child that runs a program starts a watchdog, and the thread sanitizer ends children that start threads.
#if defined(__SANITIZE_THREAD__)
constexpr bool k_children_start_threads = false;
#else
constexpr bool k_children_start_threads = true;
#endif

class EngineFork : public ::testing::Test {
protected:
    void SetUp() override {
        auto loaded = counting_object().load();
        ASSERT_TRUE(loaded) << loaded.error().message();
        loaded_ = *std::move(loaded);
        context_[0] = loaded_.arena->user_vm_start().value();
        *reinterpret_cast<std::uint64_t*>(loaded_.arena->data()) = 41;
    }
    Result<RunResult> run() { return loaded_.programs.at(0)->run(std::as_writable_bytes(std::span{context_})); }

    LoadedObject loaded_;
    std::array<std::uint64_t, 1> context_{};
};

TEST_F(EngineFork, the_parents_programs_and_maps_say_that_their_owner_is_dead) {
    ASSERT_TRUE(run());
    const int status = status_of_child([&] {
        const std::array<std::byte, 8> key{};
        const std::span<const std::byte> index = std::span{key}.first(4);
        int number = 0;
        for (const bool holds :
             {is_owner_dead(run()), is_owner_dead(loaded_.maps.at(1)->lookup(key)),
              is_owner_dead(loaded_.maps.at(1)->update(key, key, UpdateMode::any)),
              is_owner_dead(loaded_.maps.at(1)->erase(key)), is_owner_dead(loaded_.maps.at(1)->next_key(std::nullopt)),
              is_owner_dead(loaded_.maps.at(2)->set_program(0, *loaded_.programs.at(0))),
              is_owner_dead(loaded_.maps.at(2)->erase(index))}) {
            ++number;
            if (!holds) return number;
        }
        return 0;
    });
    EXPECT_EQ(status, 0);
    EXPECT_EQ(run().value().return_value, 43U) << "the parent goes on";
}

TEST_F(EngineFork, a_child_loads_and_runs_objects_of_its_own) {
    if (!k_children_start_threads) GTEST_SKIP() << "the thread sanitizer allows no threads in a child";
    ASSERT_TRUE(run());
    const int status = status_of_child([&] {
        auto own = counting_object().load();
        if (!own) return 1;
        std::array<std::uint64_t, 1> context{own->arena->user_vm_start().value()};
        *reinterpret_cast<std::uint64_t*>(own->arena->data()) = 100;
        const auto result = own->programs.at(0)->run(std::as_writable_bytes(std::span{context}));
        if (!result || result->return_value != 101) return 2;
        ObjectBuilder endless;
        endless.program("main", {jump(-1), exit()});
        const auto ended = endless.run({}, {.budget_ns = 0, .grace_ns = 0});
        if (ended || ended.error().code() != ETIMEDOUT) return 3;  // it has a watchdog of its own
        const std::array<std::byte, 8> key{};
        if (!own->maps.at(1)->update(key, key, UpdateMode::any) || !own->maps.at(1)->lookup(key)) return 4;
        return 0;
    });
    EXPECT_EQ(status, 0);
    EXPECT_EQ(run().value().return_value, 43U);
}

TEST_F(EngineFork, a_childs_program_array_takes_no_program_of_the_parent) {
    const int status = status_of_child([&] {
        auto own = counting_object().load();
        if (!own) return 1;
        return is_owner_dead(own->maps.at(2)->set_program(0, *loaded_.programs.at(0))) ? 0 : 2;
    });
    EXPECT_EQ(status, 0);
}

TEST_F(EngineFork, a_child_may_drop_the_parents_objects) {
    const int status = status_of_child([&] {
        loaded_ = {};
        return 0;
    });
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(run());
}

TEST_F(EngineFork, a_fork_while_other_threads_run_programs_leaves_the_child_working) {
    if (k_sanitized) GTEST_SKIP() << "a sanitizer's own locks may be held by the parent's other threads";
    std::atomic<bool> done{false};
    std::array<std::thread, 2> threads;
    ObjectBuilder jumps;
    jumps.map("jumps", map_type::prog_array, 4, 4, 1);
    jumps.program("main", join({map_address(r2, 0), mov(r3, 0), call_helper(12), mov(r0, 1), exit()}));
    LoadedObject busy = jumps.load().value();
    for (std::thread& thread : threads)
        thread = std::thread{[&] {
            while (!done) EXPECT_TRUE(busy.programs.at(0)->run());
        }};
    for (int i = 0; i < 20; ++i) {
        const int status = status_of_child([&] {
            dynamic_cast<ProgramArray&>(*busy.maps.at(0)).clear();  // as the destructor of an object does
            const auto result = ObjectBuilder{}.program("main", {mov(r0, 6), exit()}).run();
            return result && result->return_value == 6 ? 0 : 1;
        });
        EXPECT_EQ(status, 0);
    }
    done = true;
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

}  // namespace harena::bpf
