// SPDX-License-Identifier: Apache-2.0
//
// The object as its user sees it, with objects that clang compiled: testdata/engine.bpf.c and others there.
#include "harena/bpf/object.hpp"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using test::arena_address;
using test::refused;

std::string path_of(std::string_view name) { return fmt::format("{}/{}.bpf.o", HARENA_BPF_TEST_OBJECTS, name); }

Object open(const OpenOptions& options = {}, std::string_view name = "engine") {
    auto object = Object::open(path_of(name), options);
    if (!object) throw std::runtime_error{object.error().message()};  // no test can go on
    return *std::move(object);
}
Object load(const OpenOptions& options = {}, const LoadOptions& load_options = {}) {
    Object object = open(options);
    const auto loaded = object.load(Engine::process(), load_options);
    if (!loaded) throw std::runtime_error{loaded.error().message()};
    return object;
}

std::uint32_t run(Object& object, std::string_view program, std::span<std::byte> context = {}) {
    const auto result = object.program(program).value()->run(context);
    EXPECT_TRUE(result) << result.error().message();
    return result ? result->return_value : 0;
}

TEST(Object, runs_a_program_on_the_globals_that_the_host_set) {
    Object object = open();
    *object.global<const volatile int>("start").value();
    *object.global<int>("start").value() = 1;
    *object.global<int>("limit").value() = 5;
    ASSERT_TRUE(object.load(Engine::process()));
    EXPECT_EQ(run(object, "add_up"), 1U + 2 + 3 + 4);
    EXPECT_EQ(*object.global<long>("total").value(), 10);
    *object.global<long>("total").value() = 100;
    EXPECT_EQ(run(object, "add_up"), 110U);
}

TEST(Object, a_global_is_found_at_the_same_place_before_and_after_loading) {
    Object object = open();
    int* const before = object.global<int>("start").value();
    ASSERT_TRUE(object.load(Engine::process()));
    EXPECT_EQ(object.global<int>("start").value(), before);
    const Object moved = std::move(object);
    EXPECT_EQ(moved.global<int>("start").value(), before);
}

TEST(Object, a_global_is_asked_for_with_its_size_and_name) {
    Object object = open();
    EXPECT_TRUE(refused(object.global<long>("start"), EINVAL,
                        "global variable 'start' (int) has 4 bytes and is asked for with 8"));
    EXPECT_TRUE(refused(object.global<short>("start"), EINVAL, "asked for with 2"));
    EXPECT_TRUE(refused(object.global<int>("strat"), ENOENT, "engine.bpf.o: no global variable 'strat'; there is: "));
    EXPECT_NE(object.global<int>("strat").error().message().find("start"), std::string::npos)
        << "what there is, is listed";
    EXPECT_TRUE(object.global<unsigned>("start"));
}

TEST(Object, constants_are_written_before_loading_only) {
    Object object = open();
    EXPECT_TRUE(object.global<int>("limit"));
    ASSERT_TRUE(object.load(Engine::process()));
    EXPECT_TRUE(refused(object.global<int>("limit"), EPERM,
                        "global variable 'limit' is read-only once the object is loaded; ask for it as const"));
    EXPECT_EQ(*object.global<const int>("limit").value(), 10);
}

TEST(Object, arena_globals_are_there_once_it_is_loaded) {
    Object object = open({.arena_address = arena_address()});
    EXPECT_TRUE(refused(object.global<int>("arena_counter"), EINVAL,
                        "global variable 'arena_counter' is in the arena: load the object first"));
    ASSERT_TRUE(object.load(Engine::process()));
    int* const counter = object.global<int>("arena_counter").value();
    const auto arena = object.arena().value();
    EXPECT_EQ(*counter, 3);
    EXPECT_TRUE(arena->contains(counter));
    EXPECT_GE(reinterpret_cast<std::uint64_t>(counter), arena_address() + 98 * k_page_size)
        << "in the last two pages of 100";
    EXPECT_EQ(run(object, "build_list"), 0U);
    EXPECT_EQ(*counter, 4);
    EXPECT_EQ(arena->statistics().value().used.value(), 10U + 2U);
}

TEST(Object, the_host_walks_what_the_program_built_with_plain_pointers) {
    struct Node {
        Node* next;
        long value;
    };
    Object object = load();
    ASSERT_EQ(run(object, "build_list"), 0U);
    long expected = 9;
    for (const Node* node = *object.global<Node*>("list").value(); node != nullptr; node = node->next)
        EXPECT_EQ(node->value, expected--);
    EXPECT_EQ(expected, -1);
}

TEST(Object, a_fault_is_reported_with_its_source_line) {
    Object object = load({.arena_address = arena_address()});
    const RunResult result = object.program("fault").value()->run().value();
    EXPECT_EQ(result.return_value, 0U);
    ASSERT_EQ(result.faults.size(), 1U);
    EXPECT_NE(result.faults[0].place.find("program 'fault'"), std::string::npos);
    EXPECT_NE(result.faults[0].place.find("engine.bpf.c:"), std::string::npos) << result.faults[0].place;
    EXPECT_NE(result.faults[0].place.find("nowhere->value"), std::string::npos) << result.faults[0].place;
    EXPECT_EQ(object.program("fault").value()->fault_log().count(), 1U);
}

TEST(Object, functions_without_a_result_return_whatever_is_in_r0) {
    Object object = load();
    std::array<int, 1> key{5};
    const long zero = 0;
    Map* const counts = object.map("counts").value();
    ASSERT_TRUE(counts->update(std::as_bytes(std::span{key}), std::as_bytes(std::span{&zero, 1}), UpdateMode::create));
    EXPECT_EQ(run(object, "count", std::as_writable_bytes(std::span{key})), 0U);
    long count = 0;
    std::memcpy(&count, counts->lookup(std::as_bytes(std::span{key})).value().data(), sizeof count);
    EXPECT_EQ(count, 11);
    key[0] = 6;
    EXPECT_EQ(run(object, "count", std::as_writable_bytes(std::span{key})), 0U) << "NULL";
}

TEST(Object, an_endless_program_ends_with_its_source_line) {
    Object object = load();
    EXPECT_TRUE(refused(object.program("endless").value()->run({}, {.budget_ns = 0, .grace_ns = 0}), ETIMEDOUT,
                        "engine.bpf.c:"));
}

TEST(Object, programs_maps_and_arena_are_there_once_it_is_loaded) {
    Object object = open();
    EXPECT_TRUE(
        refused(object.program("add_up"), EINVAL, "engine.bpf.o: load the object before asking for program 'add_up'"));
    EXPECT_TRUE(refused(object.map("counts"), EINVAL, "load the object before asking for map 'counts'"));
    EXPECT_TRUE(refused(object.arena(), EINVAL, "load the object before"));
    EXPECT_TRUE(object.programs().empty());
    ASSERT_TRUE(object.load(Engine::process()));
    EXPECT_TRUE(refused(object.load(Engine::process()), EBUSY, "loaded already"));
    EXPECT_TRUE(refused(object.program("ad_up"), ENOENT, "no program 'ad_up'; there is: add_up, build_list"));
    EXPECT_TRUE(refused(object.map("count"), ENOENT, "no map 'count'; there is: "));
    EXPECT_EQ(object.programs().at(0)->name(), "add_up");
    EXPECT_EQ(object.programs().at(0)->type(), ProgramType::syscall);
    EXPECT_TRUE(object.arena());
}

TEST(Object, optional_programs_are_loaded_on_request) {
    EXPECT_TRUE(refused(load().program("optional"), ENOENT, "no program 'optional'"));
    Object object = load({.also_load = {"optional"}});
    EXPECT_EQ(run(object, "optional"), 7U);
}

TEST(Object, a_program_can_be_the_only_one_that_is_loaded) {
    for (const char* const name : {"optional", "build_list"}) {
        const Object object = load({.only_load = name});
        ASSERT_EQ(object.programs().size(), 1U);
        EXPECT_EQ(object.programs()[0]->name(), name);
    }
    EXPECT_TRUE(refused(Object::open(path_of("engine"), {.only_load = "ad_up"}), ENOENT, "no program 'ad_up' to load"));
    // And what a program array begins with.
    const auto maps = Object::open(path_of("maps"), {.only_load = "target_two"});
    ASSERT_TRUE(maps) << maps.error().message();
    for (const Function& function : maps->file().functions) EXPECT_TRUE(function.autoload) << function.name;
}

TEST(Object, options_change_place_and_size_of_the_arena) {
    Object object = load({.arena_address = arena_address(), .arena_pages = PageCount{300}});
    EXPECT_EQ(object.arena().value()->user_vm_start().value(), arena_address());
    EXPECT_EQ(object.arena().value()->pages().value(), 300U);
    EXPECT_TRUE(refused(Object::open(path_of("engine"), {.arena_pages = PageCount{(1ULL << 20) + 1}}), E2BIG,
                        "engine.bpf.o: arena_pages 1048577"));
    EXPECT_TRUE(refused(Object::open(path_of("engine"), {.arena_pages = PageCount{1ULL << 32}}), E2BIG, "arena_pages"));
    Object twice = open({.arena_address = arena_address()});
    EXPECT_TRUE(refused(twice.load(Engine::process()), EEXIST, "engine.bpf.o: "));
    Object odd = open({.arena_address = arena_address() + 1});
    EXPECT_TRUE(refused(odd.load(Engine::process()), EINVAL, ""));
}

TEST(Object, a_load_that_failed_can_be_tried_again) {
    Object object = open();
    EXPECT_TRUE(refused(object.load(Engine::process(), {.trace = {}, .frame_bytes = 7}), EINVAL,
                        "engine.bpf.o: frame_bytes 7"));
    ASSERT_TRUE(object.load(Engine::process()));
    EXPECT_EQ(run(object, "add_up"), 35U);
}

TEST(Object, an_object_without_an_arena_says_so) {
    Object object = open({}, "callbacks");
    ASSERT_TRUE(object.load(Engine::process()));
    EXPECT_TRUE(refused(object.arena(), ENOENT, "callbacks.bpf.o: the object has no arena"));
    EXPECT_EQ(run(object, "loops"), 6U * 6U);
    EXPECT_EQ(*object.global<long>("sum").value(), 36);
}

TEST(Object, two_arenas_are_refused_by_name) {
    EXPECT_TRUE(refused(Object::open(path_of("two_arenas")), EINVAL,
                        "two_arenas.bpf.o: maps 'first' and 'second' are both arenas"));
}

TEST(Object, bad_input_is_a_one_line_error_that_names_it) {
    EXPECT_TRUE(refused(Object::open("/no/such/file.bpf.o"), ENOENT, "/no/such/file.bpf.o"));
    EXPECT_TRUE(refused(Object::open(std::as_bytes(std::span{"not an ELF file"}), "bytes"), EINVAL, "bytes"));
    EXPECT_TRUE(refused(Object::open(std::span<const std::byte>{}, "nothing"), EINVAL, "nothing"));
    for (const auto& result : {Object::open("/no/such/file.bpf.o"), Object::open(std::as_bytes(std::span{"\x7f"
                                                                                                         "ELF"}),
                                                                                 "bytes")})
        EXPECT_EQ(result.error().message().find('\n'), std::string::npos);
}

TEST(Object, an_object_opens_from_bytes_as_from_a_file) {
    const auto bytes = os::read_file(path_of("engine"));
    ASSERT_TRUE(bytes);
    auto object = Object::open(*bytes, "from memory");
    ASSERT_TRUE(object);
    ASSERT_TRUE(object->load(Engine::process()));
    EXPECT_EQ(run(*object, "add_up"), 35U);
    EXPECT_EQ(object->file().name, "from memory");
}

TEST(Object, two_loads_of_one_file_share_nothing) {
    Object first = load();
    Object second = load();
    run(first, "add_up");
    EXPECT_EQ(*first.global<long>("total").value(), 35);
    EXPECT_EQ(*second.global<long>("total").value(), 0);
    EXPECT_NE(first.arena().value()->data(), second.arena().value()->data());
}

TEST(Object, the_arena_outlives_its_object) {
    std::shared_ptr<Arena> arena;
    {
        Object object = load();
        ASSERT_EQ(run(object, "build_list"), 0U);
        arena = object.arena().value();
    }
    EXPECT_EQ(arena->statistics().value().used.value(), 12U);
    *arena->data() = std::byte{1};
}

// A circle: each object's array holds a program of the other. What is left over is seen by the leak checker.
TEST(Object, objects_whose_program_arrays_hold_each_other_go_in_any_order) {
    for (const bool first_goes_first : {true, false}) {
        auto first = std::make_unique<Object>(load());
        auto second = std::make_unique<Object>(load());
        ASSERT_TRUE(first->map("jumps").value()->set_program(1, *second->program("add_up").value()));
        ASSERT_TRUE(second->map("jumps").value()->set_program(1, *first->program("add_up").value()));
        ASSERT_TRUE(first->map("jumps").value()->set_program(0, *first->program("jump").value()));
        EXPECT_EQ(run(*first, "jump"), 35U);
        auto& gone = first_goes_first ? first : second;
        auto& left = first_goes_first ? second : first;
        gone.reset();
        EXPECT_EQ(run(*left, "jump"), first_goes_first ? 70U - 35U : 70U)
            << "the program that is held still runs, on its own globals";
        const std::uint32_t index = 1;
        ASSERT_TRUE(left->map("jumps").value()->erase(std::as_bytes(std::span{&index, 1})));
        EXPECT_EQ(run(*left, "jump"), 1U);
    }
}

TEST(Object, one_that_was_never_loaded_goes_quietly) {
    Object object = open();
    Object other = std::move(object);
    object = open();
    other = std::move(object);
}

}  // namespace

}  // namespace harena::bpf
