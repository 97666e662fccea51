// SPDX-License-Identifier: Apache-2.0
#include "harena/base/fork.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include <gtest/gtest.h>

namespace harena {
namespace {

/// Runs `body` in a child after fork; true if it returned true there.
template <typename Body>
bool holds_in_child(Body&& body) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(body() ? 0 : 1);
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(ForkGuard, the_owner_may_use_it_before_and_after_a_fork) {
    const ForkGuard guard;
    EXPECT_FALSE(guard.owner_dead());
    EXPECT_TRUE(holds_in_child([] { return true; }));
    EXPECT_FALSE(guard.owner_dead());
    EXPECT_TRUE(guard.check("it"));
}

TEST(ForkGuard, a_child_gets_EOWNERDEAD_and_the_name_of_the_object) {
    const ForkGuard guard;
    EXPECT_TRUE(holds_in_child([&] {
        const auto checked = guard.check("the arena");
        return guard.owner_dead() && !checked && checked.error().code() == EOWNERDEAD &&
               checked.error().message().find("the arena") != std::string::npos;
    }));
}

TEST(ForkGuard, a_child_may_make_its_own_and_its_child_may_not_use_that) {
    const ForkGuard guard;
    EXPECT_TRUE(holds_in_child([&] {
        const ForkGuard own;
        return !own.owner_dead() && guard.owner_dead() &&
               holds_in_child([&] { return own.owner_dead() && guard.owner_dead(); }) && !own.owner_dead();
    }));
}

int prepared = 0;
int parents = 0;
int children = 0;

TEST(AtFork, handlers_run_on_their_side_and_null_ones_are_skipped) {
    ASSERT_TRUE(at_fork({.prepare = []() noexcept { ++prepared; },
                         .parent = []() noexcept { ++parents; },
                         .child = []() noexcept { ++children; }}));
    ASSERT_TRUE(at_fork({.prepare = nullptr, .parent = nullptr, .child = nullptr}));
    EXPECT_TRUE(holds_in_child([] { return prepared == 1 && parents == 0 && children == 1; }));
    EXPECT_EQ(prepared, 1);
    EXPECT_EQ(parents, 1);
    EXPECT_EQ(children, 0);
}

}  // namespace
}  // namespace harena
