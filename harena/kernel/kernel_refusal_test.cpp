// SPDX-License-Identifier: Apache-2.0
// What the engine refuses, what it says about it, and what an old kernel or a process with less privilege hears.
#include <sched.h>

#include <cerrno>
#include <memory>
#include <string>

#include "harena/base/os/fault_injection.hpp"
#include "harena/bpf/test_programs.hpp"
#include "harena/kernel/child_process_test.hpp"
#include "harena/kernel/program_code.hpp"
#include "harena/kernel/refusal.hpp"
#include "harena/kernel/test_support.hpp"

namespace harena::kernel::test {
namespace {

using namespace bpf::test;
using bpf::Object;

using KernelRefusal = KernelTest;

Result<bpf::LoadedObject> load(const bpf::ObjectFile& file, const bpf::LoadOptions& options = {}) {
    return engine().load(std::make_shared<const bpf::ObjectFile>(file), {}, options);
}

ObjectBuilder returning_zero() {
    ObjectBuilder builder;
    builder.program("main", {mov(r0, 0), exit()});
    return builder;
}

TEST_F(KernelRefusal, maps_with_a_value_for_each_processor_are_not_made) {
    constexpr std::uint32_t k_percpu_hash = 5;
    constexpr std::uint32_t k_percpu_array = 6;
    constexpr std::uint32_t k_lru_percpu_hash = 10;
    constexpr std::uint32_t k_ring_buffer = 27;
    for (const std::uint32_t type : {k_percpu_hash, k_percpu_array, k_lru_percpu_hash, k_ring_buffer, 99U})
        EXPECT_TRUE(refused(load(returning_zero().map("counts", type, 4, 8, 4096).build()), ENOTSUP,
                            "map 'counts' is a map of " + bpf::map_type_name(type)));
}

TEST_F(KernelRefusal, a_map_to_be_pinned_is_not_made_under_another_name) {
    ObjectBuilder builder = returning_zero();
    builder.map("shared", bpf::map_type::hash, 4, 8, 1);
    builder.file().maps[0].pin_by_name = true;
    EXPECT_TRUE(refused(load(builder.build()), ENOTSUP, "map 'shared' is to be pinned"));
}

TEST_F(KernelRefusal, a_second_arena_is_refused) {
    EXPECT_TRUE(refused(load(returning_zero().arena(4).arena(4).build()), EINVAL, "second arena"));
}

TEST_F(KernelRefusal, a_map_whose_types_the_kernel_does_not_take_is_made_without) {
    auto object = Object::open(KernelTest::object("engine"));
    ASSERT_TRUE(object);
    // The arena, then the hash with types.
    os::FailCall injector{os::Call::bpf_map_create, EINVAL, 1};
    const os::ScopedFaultInjector scoped{injector};
    const auto done = object->load(engine());
    EXPECT_TRUE(done) << done.error().message();
}

TEST_F(KernelRefusal, a_strong_extern_that_is_missing_is_named_though_only_its_address_is_taken) {
    for (const auto& [program, wanted] : {std::pair{"takes_variable", "variable 'no_such_variable' is not in"},
                                          std::pair{"takes_function", "kfunc 'no_such_function' is not in"}}) {
        auto object =
            Object::open(KernelTest::object("externs_missing"),
                         {.arena_address = std::nullopt, .arena_pages = std::nullopt, .also_load = {program}});
        ASSERT_TRUE(object) << object.error().message();
        EXPECT_TRUE(refused(object->load(engine()), EINVAL, wanted));
        EXPECT_TRUE(refused(object->load(bpf::Engine::process()), EINVAL, "no_such"));
    }
}

TEST_F(KernelRefusal, more_functions_than_linux_takes_are_refused_at_once) {
    constexpr std::int32_t k_functions = 5000;
    ObjectBuilder builder;
    builder.program("main", {call_function(1), exit()});
    for (std::int32_t i = 2; i <= k_functions; ++i)
        builder.subprogram(fmt::format("f{}", i - 1), {call_function(i), exit()});
    builder.subprogram("last", {mov(r0, 0), exit()});
    EXPECT_TRUE(refused(load(builder.build()), E2BIG, "more than 256 functions"));
}

TEST_F(KernelRefusal, a_kernel_without_arenas_is_told_by_its_version_whatever_else_it_lacks) {
    for (const int error : {EINVAL, E2BIG}) {
        auto object = Object::open(KernelTest::object("engine"));
        ASSERT_TRUE(object);
        os::FailCall injector{os::Call::bpf_map_create, error, 0, os::FailCall::Repeat::always};
        const os::ScopedFaultInjector scoped{injector};
        EXPECT_TRUE(refused(object->load(engine()), error, "arenas came with Linux 6.9, and this is"));
    }
}

TEST_F(KernelRefusal, a_kfunc_that_came_later_is_told_with_its_version) {
    EXPECT_EQ(introduced_in("bpf_arena_reserve_pages"), "6.17");
    EXPECT_EQ(introduced_in("bpf_arena_alloc_pages"), "6.9");
    EXPECT_EQ(introduced_in("no_such_kfunc"), "");
    ObjectBuilder builder;
    builder.kfunc("no_such_kfunc");
    builder.program("main", {call_kfunc(0), mov(r0, 0), exit()});
    EXPECT_TRUE(refused(load(builder.build()), EINVAL, "kfunc 'no_such_kfunc' is not in this kernel"));
}

TEST_F(KernelRefusal, the_whole_log_is_given_though_it_is_longer_than_the_first_buffer) {
    // Each path is followed, and each instruction logged; then a number is dereferenced.
    Code code{mov(r2, 30'000),
              mov(r3, 0),
              add(r3, 1),
              add(r2, -1),
              jump_if(bpf::JmpOp::jne, r2, 0, -3),
              load(bpf::Size::dw, r0, r3, 0),
              exit()};
    ObjectBuilder builder;
    builder.program("main", code);
    const auto done = load(builder.build(), {.verbose_log = true});
    ASSERT_FALSE(done);
    const std::string& message = done.error().message();
    EXPECT_GT(message.size(), std::size_t{1} << 20);
    EXPECT_NE(message.find("\n0: "), std::string::npos);
    EXPECT_NE(message.find("R3 invalid mem access 'scalar'"), std::string::npos);
    EXPECT_EQ(message.find("missing"), std::string::npos);
    EXPECT_TRUE(refused(load(builder.build()), EACCES, "R3 invalid mem access 'scalar'"));
}

TEST_F(KernelRefusal, EPERM_names_the_capability_that_is_missing) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    EXPECT_EQ(describe_missing(k_engine_capabilities, 0), "CAP_BPF and CAP_PERFMON are needed, or root");
    EXPECT_EQ(describe_missing(k_engine_capabilities, k_cap_bpf),
              "CAP_PERFMON is missing; CAP_BPF and CAP_PERFMON are needed, or root");
    EXPECT_NE(describe_missing(k_engine_capabilities, k_engine_capabilities).find("user namespace"), std::string::npos);
    const Child child = forked([] {
        if (!keep_capabilities(k_engine_capabilities)) return Child::cannot;
        auto object = Object::open(KernelTest::object("contexts"));
        return refused(object->load(engine()), EPERM, "CAP_NET_ADMIN is missing") ? Child::right : Child::wrong;
    });
    EXPECT_EQ(child, Child::right);
}

TEST_F(KernelRefusal, root_of_a_user_namespace_is_told_that_it_is_not_the_initial_one) {
    const Child child = forked([] {
        if (::unshare(CLONE_NEWUSER) != 0) return Child::cannot;
        auto object = Object::open(KernelTest::object("engine"));
        return refused(object->load(engine()), EPERM, "user namespace") ? Child::right : Child::wrong;
    });
    if (child == Child::cannot) GTEST_SKIP() << "no user namespaces here";
    EXPECT_EQ(child, Child::right);
}

}  // namespace
}  // namespace harena::kernel::test
