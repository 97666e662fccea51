// SPDX-License-Identifier: Apache-2.0
//
// Calls of every kind: what the callee gets, what the caller keeps, what comes back, how deep it goes.
#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

constexpr std::int32_t k_loop = 181;
constexpr std::int32_t k_for_each = 164;
constexpr std::int32_t k_tail_call = 12;

// --- subprograms
// ------------------------------------------------------------------------------------------------------

TEST(InterpreterCalls, five_arguments_go_in_and_one_result_comes_out) {
    ObjectBuilder object;
    object.subprogram("sum", {mov(r0, r1), add(r0, r2), add(r0, r3), add(r0, r4), add(r0, r5), exit()});
    EXPECT_TRUE(gives(evaluate(object, {mov(r1, 1), mov(r2, 20), mov(r3, 300), mov(r4, 4000), mov(r5, 50000),
                                        call_function(0)}),
                      54321));
}

TEST(InterpreterCalls, calls_go_backwards_and_forwards) {
    ObjectBuilder object;
    object.program("main", {call_local(3), mov(r6, r0), add(r0, r6), exit(), mov(r0, 21), exit()});
    object.file().functions[0].end = 4;
    object.file().functions.push_back({.name = "later", .section = ".text", .begin = 4, .end = 6});
    EXPECT_EQ(object.run().value().return_value, 42U);
}

TEST(InterpreterCalls, callee_saved_registers_and_frames_survive_a_call) {
    ObjectBuilder object;
    object.subprogram("scribbles", {mov(r6, 0), mov(r7, 0), mov(r8, 0), mov(r9, 0), store(Size::dw, r10, -8, 0),
                                    store(Size::dw, r10, -512, 0), mov(r0, 0), exit()});
    EXPECT_TRUE(
        gives(evaluate(object, {mov(r6, 1), mov(r7, 2), mov(r8, 4), store(Size::dw, r10, -8, 8),
                                store(Size::dw, r10, -512, 16), call_function(0), add(r0, r6), add(r0, r7), add(r0, r8),
                                load(Size::dw, r2, r10, -8), add(r0, r2), load(Size::dw, r2, r10, -512), add(r0, r2)}),
              31));
}

TEST(InterpreterCalls, argument_registers_are_lost_in_a_call) {
    ObjectBuilder object;
    object.subprogram("nothing", {mov(r0, 0), exit()});
    for (const Reg reg : {r1, r2, r3, r4, r5}) {
        const Code set{mov(r1, 0), mov(r2, 0), mov(r3, 0), mov(r4, 0), mov(r5, 0)};
        EXPECT_TRUE(
            refused(evaluate(object, join({set, call_function(0), mov(r0, reg)})), EACCES, "calls clobber R1 to R5"));
        EXPECT_TRUE(
            refused(evaluate(object, join({set, call_helper(5), mov(r0, reg)})), EACCES, "calls clobber R1 to R5"));
    }
}

TEST(InterpreterCalls, a_callee_sees_nothing_of_its_callers_registers_but_the_arguments) {
    for (const Reg reg : {r0, r6, r7, r8, r9}) {
        ObjectBuilder object;
        object.subprogram("reads", {mov(r0, reg), exit()});
        EXPECT_TRUE(refused(evaluate(object, {mov(r0, 1), mov(r6, 1), mov(r7, 1), mov(r8, 1), call_function(0)}),
                            EACCES, "!read_ok"));
    }
    ObjectBuilder object;
    object.subprogram("reads", {mov(r0, r3), exit()});
    EXPECT_TRUE(refused(evaluate(object, {mov(r1, 1), mov(r2, 1), call_function(0)}), EACCES, "R3 !read_ok"));
}

TEST(InterpreterCalls, each_call_gets_a_clear_frame_of_its_own) {
    ObjectBuilder object;
    object.subprogram("adds_to_its_frame",
                      {load(Size::dw, r0, r10, -8), add(r0, r1), store(Size::dw, r10, -8, r0), exit()});
    EXPECT_TRUE(gives(evaluate(object, {mov(r1, 5), call_function(0), mov(r1, 7), call_function(0)}), 7));
}

TEST(InterpreterCalls, a_callee_writes_the_frame_that_it_is_given) {
    ObjectBuilder object;
    object.subprogram("writes", {store(Size::dw, r1, 0, 11), store(Size::dw, r1, 8, r2), mov(r0, 0), exit()});
    EXPECT_TRUE(gives(evaluate(object, {mov(r1, r10), add(r1, -16), mov(r2, r9), call_function(0),
                                        load(Size::dw, r2, r10, -8), store(Size::dw, r2, 8, 4),
                                        load(Size::dw, r0, r9, 8), load(Size::dw, r2, r10, -16), add(r0, r2)}),
                      15));
    EXPECT_TRUE(
        refused(evaluate(object, {mov(r1, r10), mov(r2, 0), call_function(0)}), EFAULT, "invalid access to stack"));
}

TEST(InterpreterCalls, eight_frames_are_deep_enough_and_nine_too_deep) {
    // depth(n) calls itself n times below itself.
    ObjectBuilder object;
    object.subprogram("depth",
                      {mov(r0, 1), jump_if(JmpOp::jeq, r1, 0, 3), add(r1, -1), call_function(0), add(r0, 1), exit()});
    EXPECT_TRUE(gives(evaluate(object, {mov(r1, 6), call_function(0)}), 7)) << "main and seven";
    EXPECT_TRUE(refused(evaluate(object, {mov(r1, 7), call_function(0)}), E2BIG, "call stack of 9 frames is too deep"));
}

TEST(InterpreterCalls, the_depth_can_be_raised) {
    ObjectBuilder object;
    object.program("main", {mov(r1, 62), call_function(1), exit()});
    object.subprogram("depth",
                      {mov(r0, 1), jump_if(JmpOp::jeq, r1, 0, 3), add(r1, -1), call_function(1), add(r0, 1), exit()});
    EXPECT_TRUE(refused(object.run(), E2BIG, "too deep"));
    const LoadedObject loaded = object.load({.trace = {}, .frame_bytes = 512, .max_frames = 64}).value();
    EXPECT_EQ(loaded.programs.at(0)->run().value().return_value, 63U);
}

// --- results
// ----------------------------------------------------------------------------------------------------------

TEST(InterpreterCalls, a_subprogram_may_end_without_a_result) {
    for (const bool is_global : {false, true}) {
        ObjectBuilder object;
        object.subprogram("nothing", {mov(r2, 1), exit()}, is_global);
        EXPECT_TRUE(gives(evaluate(object, {call_function(0), mov(r0, 3)}), 3)) << is_global;
        EXPECT_TRUE(refused(evaluate(object, {mov(r0, 3), call_function(0)}), EACCES, "R0 !read_ok")) << is_global;
    }
}

TEST(InterpreterCalls, programs_and_callbacks_end_with_a_result) {
    ObjectBuilder object;
    object.program("main", {exit()});
    EXPECT_TRUE(refused(object.run(), EACCES, "R0 !read_ok"));
    ObjectBuilder callback;
    callback.subprogram("nothing", {exit()});
    EXPECT_TRUE(refused(
        evaluate(callback, join({mov(r1, 1), function_address(r2, 0), mov(r3, 0), mov(r4, 0), call_helper(k_loop)})),
        EACCES, "R0 !read_ok"));
}

TEST(InterpreterCalls, a_programs_result_is_the_low_half_of_r0) {
    ObjectBuilder object;
    object.program("main", join({imm64(r0, 0x1234567890), exit()}));
    EXPECT_EQ(object.run().value().return_value, 0x34567890U);
    ObjectBuilder arena;
    arena.arena(1).program("main", join({imm64(r0, 0x1234567890), to_program(r0, r0), exit()}));
    EXPECT_EQ(arena.run().value().return_value, 0x34567890U);
}

TEST(InterpreterCalls, arena_pointers_stay_so_in_static_calls_and_become_numbers_in_global_ones) {
    for (const bool is_global : {false, true}) {
        ObjectBuilder in;
        in.arena(1).subprogram("dereferences", {load(Size::b, r0, r1, 0), exit()}, is_global);
        const Evaluated argument = evaluate(in, {mov(r1, 0), to_program(r1, r1), call_function(0)});
        ObjectBuilder out;
        out.arena(1).subprogram("makes", {mov(r0, 0), to_program(r0, r0), exit()}, is_global);
        const Evaluated result = evaluate(out, {call_function(0), load(Size::b, r0, r0, 0)});
        for (const Evaluated& one : {argument, result}) {
            if (is_global) {
                EXPECT_TRUE(refused(one, EACCES, "invalid mem access 'scalar'"));
            } else {
                EXPECT_TRUE(gives(one, 0));
                EXPECT_EQ(one.faults, 1U);
            }
        }
        ObjectBuilder by_address;
        by_address.arena(1).subprogram("dereferences", {load(Size::b, r0, r1, 0), exit()}, is_global);
        const Evaluated called =
            evaluate(by_address, join({mov(r1, 0), to_program(r1, r1), function_address(r6, 0), call_register(r6)}));
        EXPECT_EQ(called.error, is_global ? EACCES : 0) << "also by address";
    }
}

TEST(InterpreterCalls, a_global_function_takes_other_pointers_as_they_are) {
    ObjectBuilder object;
    object.subprogram("reads", {load(Size::dw, r0, r1, 0), exit()}, true);
    EXPECT_TRUE(gives(evaluate(object, {store(Size::dw, r10, -8, 9), mov(r1, r10), add(r1, -8), call_function(0)}), 9));
}

// --- by address
// -------------------------------------------------------------------------------------------------------

TEST(InterpreterCalls, functions_are_called_by_address) {
    ObjectBuilder object;
    object.subprogram("one", {mov(r0, 1), exit()}).subprogram("twice", {mov(r0, r1), add(r0, r1), exit()});
    EXPECT_TRUE(gives(evaluate(object, join({mov(r1, 8), function_address(r3, 1), call_register(r3)})), 16));
    EXPECT_TRUE(refused(evaluate(object, {mov(r3, 0), call_register(r3)}), EACCES,
                        "R3 is called and is not the address of a function (kind scalar)"));
    EXPECT_TRUE(refused(evaluate(object, {call_register(r1)}), EACCES, "(kind ctx)"));
    EXPECT_TRUE(refused(evaluate(object, {call_register(r8)}), EACCES, "R8 !read_ok"));
    EXPECT_TRUE(refused(evaluate(object, join({function_address(r3, 0), add(r3, 1), call_register(r3)})), EACCES,
                        "pointer arithmetic prohibited"));
}

// --- callbacks
// --------------------------------------------------------------------------------------------------------

Code loop(std::int32_t rounds, std::int32_t function) {
    return join(
        {mov(r1, rounds), function_address(r2, function), mov(r3, r10), add(r3, -8), mov(r4, 0), call_helper(k_loop)});
}

TEST(InterpreterCalls, a_loop_calls_back_with_its_index_and_context) {
    ObjectBuilder object;
    object.subprogram("adds", {load(Size::dw, r0, r2, 0), add(r0, r1), store(Size::dw, r2, 0, r0), mov(r0, 0), exit()});
    EXPECT_TRUE(
        gives(evaluate(object, join({store(Size::dw, r10, -8, 1000), loop(5, 0), load(Size::dw, r0, r10, -8)})), 1010));
    EXPECT_TRUE(gives(evaluate(object, loop(5, 0)), 5)) << "the number of rounds";
    EXPECT_TRUE(gives(evaluate(object, loop(0, 0)), 0));
}

TEST(InterpreterCalls, a_loop_stops_when_its_callback_says_so) {
    ObjectBuilder object;
    object.subprogram("stops_at_three", {mov(r0, 0), jump_if(JmpOp::jne, r1, 3, 1), mov(r0, 1), exit()});
    EXPECT_TRUE(gives(evaluate(object, loop(100, 0)), 4));
}

TEST(InterpreterCalls, a_loop_has_limits) {
    ObjectBuilder object;
    object.subprogram("stops", {mov(r0, 1), exit()});
    EXPECT_TRUE(gives(evaluate(object, loop(1 << 23, 0)), 1));
    EXPECT_TRUE(gives(evaluate(object, loop((1 << 23) + 1, 0)), 0ULL - E2BIG));
    EXPECT_TRUE(gives(evaluate(object, join({imm64(r1, 0x1'00000001), function_address(r2, 0), mov(r3, 0), mov(r4, 0),
                                             call_helper(k_loop)})),
                      1))
        << "u32";
    EXPECT_TRUE(gives(
        evaluate(object, join({mov(r1, 1), function_address(r2, 0), mov(r3, 0), mov(r4, 1), call_helper(k_loop)})),
        0ULL - EINVAL));
}

TEST(InterpreterCalls, the_callers_registers_survive_callbacks) {
    ObjectBuilder object;
    object.subprogram("scribbles", {mov(r6, 0), mov(r7, 0), mov(r8, 0), mov(r9, 0), mov(r0, 0), exit()});
    EXPECT_TRUE(gives(
        evaluate(object, join({mov(r6, 1), mov(r7, 2), mov(r8, 4), loop(3, 0), mov(r0, r6), add(r0, r7), add(r0, r8)})),
        7));
    EXPECT_TRUE(refused(evaluate(object, join({loop(3, 0), mov(r0, r3)})), EACCES, "calls clobber"));
}

TEST(InterpreterCalls, callbacks_nest_and_count_as_frames) {
    // Each round of the outer loop runs the inner one, on the same counter.
    ObjectBuilder object;
    object.subprogram("counts",
                      {load(Size::dw, r0, r2, 0), add(r0, 1), store(Size::dw, r2, 0, r0), mov(r0, 0), exit()});
    object.subprogram("nests", join({mov(r3, r2), mov(r1, 4), function_address(r2, 0), mov(r4, 0), call_helper(k_loop),
                                     mov(r0, 0), exit()}));
    EXPECT_TRUE(gives(evaluate(object, join({loop(3, 1), load(Size::dw, r0, r10, -8)})), 12));
    ObjectBuilder endless;
    endless.subprogram("recurses", join({mov(r3, r2), mov(r1, 1), function_address(r2, 0), mov(r4, 0),
                                         call_helper(k_loop), exit()}));
    EXPECT_TRUE(refused(evaluate(endless, loop(1, 0)), E2BIG, "too deep"));
}

TEST(InterpreterCalls, wrong_callbacks_are_refused) {
    ObjectBuilder object;
    object.map("values", map_type::array, 4, 8, 1);
    object.subprogram("reads_a_third", {mov(r0, r3), exit()}).subprogram("fine", {mov(r0, 0), exit()});
    EXPECT_TRUE(refused(evaluate(object, loop(1, 0)), EACCES, "R3 !read_ok")) << "a loop gives two arguments";
    EXPECT_TRUE(refused(evaluate(object, {mov(r1, 1), mov(r2, 0), mov(r3, 0), mov(r4, 0), call_helper(k_loop)}), EACCES,
                        "R2 type=scalar expected=func"));
    EXPECT_TRUE(refused(
        evaluate(object, join({mov(r1, 1), function_address(r2, 1), mov(r3, 5), mov(r4, 0), call_helper(k_loop)})),
        EACCES, "stack or NULL"));
    EXPECT_TRUE(refused(
        evaluate(object, join({mov(r1, 1), function_address(r2, 1), mov(r3, r9), mov(r4, 0), call_helper(k_loop)})),
        EACCES, "stack or NULL"));
    EXPECT_TRUE(refused(evaluate(object, join({mov(r1, 1), function_address(r2, 1), mov(r3, 0), call_helper(k_loop)})),
                        EACCES, "R4 !read_ok"));
    EXPECT_TRUE(refused(
        evaluate(object, join({mov(r1, 5), function_address(r2, 1), mov(r3, 0), mov(r4, 0), call_helper(k_for_each)})),
        EACCES, "expected=map_ptr"));
}

Code insert(std::int32_t map, std::int32_t key, std::int32_t value) {
    return join({store(Size::dw, r10, -16, key), store(Size::dw, r10, -24, value), map_address(r1, map), mov(r2, r10),
                 add(r2, -16), mov(r3, r10), add(r3, -24), mov(r4, 0), call_helper(2)});
}
Code for_each(std::int32_t map, std::int32_t function, std::int32_t flags = 0) {
    return join({map_address(r1, map), function_address(r2, function), mov(r3, r10), add(r3, -8), mov(r4, flags),
                 call_helper(k_for_each)});
}

TEST(InterpreterCalls, an_iteration_calls_back_with_map_key_value_and_context) {
    for (const std::uint32_t type : {map_type::hash, map_type::array}) {
        ObjectBuilder object;
        object.map("values", type, 4, 8, 4);
        // *context += key * value; value += 1.
        object.subprogram("adds", {load(Size::w, r5, r2, 0), load(Size::dw, r0, r3, 0), alu64(AluOp::mul, r5, r0),
                                   add(r0, 1), store(Size::dw, r3, 0, r0), load(Size::dw, r0, r4, 0), add(r0, r5),
                                   store(Size::dw, r4, 0, r0), mov(r0, 0), exit()});
        const Code fill = join({insert(0, 1, 10), insert(0, 2, 100), insert(0, 3, 1000)});
        EXPECT_TRUE(gives(evaluate(object, join({fill, for_each(0, 0), load(Size::dw, r0, r10, -8)})), 3210));
        EXPECT_TRUE(gives(evaluate(object, join({fill, for_each(0, 0), for_each(0, 0), load(Size::dw, r0, r10, -8)})),
                          3210 + 3216));
        EXPECT_TRUE(gives(evaluate(object, join({fill, for_each(0, 0)})), type == map_type::hash ? 3 : 4));
        EXPECT_TRUE(gives(evaluate(object, for_each(0, 0, 1)), 0ULL - EINVAL));
    }
}

TEST(InterpreterCalls, an_iteration_stops_when_its_callback_says_so) {
    ObjectBuilder object;
    object.map("values", map_type::array, 4, 8, 10)
        .subprogram("stops_at_three",
                    {load(Size::w, r1, r2, 0), mov(r0, 0), jump_if(JmpOp::jne, r1, 3, 1), mov(r0, 1), exit()});
    EXPECT_TRUE(gives(evaluate(object, for_each(0, 0)), 4));
}

TEST(InterpreterCalls, a_callback_may_change_the_map_that_it_walks) {
    ObjectBuilder object;
    object.map("values", map_type::hash, 4, 8, 8);
    object.subprogram("deletes", {call_helper(3), mov(r0, 0), exit()});
    const Code fill = join({insert(0, 1, 1), insert(0, 2, 2), insert(0, 3, 3)});
    EXPECT_TRUE(gives(evaluate(object, join({fill, for_each(0, 0), for_each(0, 0)})), 0)) << "the second finds none";
    ObjectBuilder grows;
    grows.map("values", map_type::hash, 4, 8, 64);
    grows.subprogram("inserts", join({load(Size::w, r5, r2, 0), add(r5, 1), store(Size::w, r10, -4, r5), mov(r2, r10),
                                      add(r2, -4), mov(r4, 0), call_helper(2), mov(r0, 0), exit()}));
    const Evaluated result = evaluate(grows, join({insert(0, 1, 1), for_each(0, 0)}));
    EXPECT_EQ(result.error, 0) << result.message;
    EXPECT_LE(result.value, 64U) << "it ends when the map is full at the latest";
}

TEST(InterpreterCalls, iterations_nest_with_a_key_each) {
    ObjectBuilder object;
    object.map("values", map_type::array, 4, 8, 3);
    // inner(map, key, value, context): *context += *key
    object.subprogram("inner", {load(Size::w, r5, r2, 0), load(Size::dw, r0, r4, 0), add(r0, r5),
                                store(Size::dw, r4, 0, r0), mov(r0, 0), exit()});
    // outer: remembers the key's pointer over the inner iteration, then *context += 100 * *key
    object.subprogram("outer",
                      join({mov(r6, r2), mov(r7, r4), mov(r3, r4), function_address(r2, 0), mov(r4, 0),
                            call_helper(k_for_each), load(Size::w, r5, r6, 0), alu64(AluOp::mul, r5, 100),
                            load(Size::dw, r0, r7, 0), add(r0, r5), store(Size::dw, r7, 0, r0), mov(r0, 0), exit()}));
    EXPECT_TRUE(gives(evaluate(object, join({for_each(0, 1), load(Size::dw, r0, r10, -8)})), 309));
}

TEST(InterpreterCalls, an_error_in_a_callback_ends_the_run_and_names_the_callback) {
    ObjectBuilder object;
    object.subprogram("wild", {mov(r3, 0), load(Size::b, r0, r3, 0), exit()});
    EXPECT_TRUE(refused(evaluate(object, loop(1, 0)), EACCES, "function 'wild' instruction 1: R3 invalid mem access"));
}

// --- tail calls
// -------------------------------------------------------------------------------------------------------

Code tail_call(std::int32_t map, std::int32_t index) {
    return join({map_address(r2, map), mov(r3, index), call_helper(k_tail_call)});
}

class TailCalls : public ::testing::Test {
protected:
    static ObjectBuilder with_jumps(std::uint32_t entries = 4) {
        ObjectBuilder object;
        object.map("jumps", map_type::prog_array, 4, 4, entries);
        return object;
    }
    static LoadedObject make(const ObjectBuilder& object) {
        auto loaded = object.load();
        EXPECT_TRUE(loaded) << loaded.error().message();
        return loaded ? *std::move(loaded) : LoadedObject{};
    }
    // Program arrays hold what holds them, as long as nobody cuts the circle.
    static void release(LoadedObject& loaded) {
        for (const auto& map : loaded.maps)
            if (auto* const array = dynamic_cast<ProgramArray*>(map.get())) array->clear();
    }
};

TEST_F(TailCalls, the_target_takes_over_with_the_context_and_nothing_else) {
    std::array<std::uint64_t, 2> context{7, 0};
    ObjectBuilder object = with_jumps();
    object.program("main", join({mov(r6, 1), store(Size::dw, r10, -8, 5), tail_call(0, 2), mov(r0, 1), exit()}));
    object.program("target", {load(Size::dw, r0, r1, 0), load(Size::dw, r2, r10, -8), add(r0, r2), exit()});
    object.program("reads_r6", {mov(r0, r6), exit()});
    LoadedObject loaded = make(object);
    ASSERT_TRUE(loaded.maps.at(0)->set_program(2, *loaded.programs.at(1)));
    EXPECT_EQ(loaded.programs.at(0)->run(std::as_writable_bytes(std::span{context})).value().return_value, 7U)
        << "its stack is clear";
    ASSERT_TRUE(loaded.maps.at(0)->set_program(2, *loaded.programs.at(2)));
    EXPECT_TRUE(refused(loaded.programs.at(0)->run(), EACCES, "program 'reads_r6' instruction 0: R6 !read_ok"));
    release(loaded);
}

TEST_F(TailCalls, the_program_goes_on_where_there_is_no_target) {
    ObjectBuilder object = with_jumps();
    object.program("main", join({mov(r6, r1), tail_call(0, 0), mov(r1, r6), tail_call(0, 4), mov(r1, r6),
                                 tail_call(0, -1), mov(r0, 9), exit()}));
    EXPECT_EQ(object.run().value().return_value, 9U);
    ObjectBuilder clobbers = with_jumps();
    clobbers.program("main", join({tail_call(0, 0), mov(r0, r1), exit()}));
    EXPECT_TRUE(refused(clobbers.run(), EACCES, "R1 !read_ok"));
}

TEST_F(TailCalls, the_index_has_32_bits) {
    ObjectBuilder object = with_jumps();
    object
        .program("main",
                 join({map_address(r2, 0), imm64(r3, 0x5'00000001), call_helper(k_tail_call), mov(r0, 1), exit()}))
        .program("target", {mov(r0, 2), exit()});
    LoadedObject loaded = make(object);
    ASSERT_TRUE(loaded.maps.at(0)->set_program(1, *loaded.programs.at(1)));
    EXPECT_EQ(loaded.programs.at(0)->run().value().return_value, 2U);
    release(loaded);
}

TEST_F(TailCalls, thirty_three_are_made_and_the_next_is_not) {
    ObjectBuilder object = with_jumps();
    // Counts itself in the context.
    object.program("main", join({load(Size::dw, r6, r1, 0), add(r6, 1), store(Size::dw, r1, 0, r6), tail_call(0, 0),
                                 mov(r0, r6), exit()}));
    LoadedObject loaded = make(object);
    ASSERT_TRUE(loaded.maps.at(0)->set_program(0, *loaded.programs.at(0)));
    std::array<std::uint64_t, 1> context{};
    EXPECT_EQ(loaded.programs.at(0)->run(std::as_writable_bytes(std::span{context})).value().return_value, 34U);
    EXPECT_EQ(context[0], 34U);
    release(loaded);
}

TEST_F(TailCalls, one_from_a_subprogram_returns_to_its_caller) {
    ObjectBuilder object = with_jumps();
    object.program("main", {mov(r6, r1), store(Size::dw, r10, -8, 300), call_function(1), load(Size::dw, r2, r10, -8),
                            add(r0, r2), load(Size::dw, r2, r6, 0), add(r0, r2), exit()});
    object.subprogram("jumps", join({mov(r6, 3), tail_call(0, 0), mov(r0, 1), exit()}));
    object.program("target", {mov(r6, 0), store(Size::dw, r10, -8, 0), mov(r0, 20), exit()});
    LoadedObject loaded = make(object);
    ASSERT_TRUE(loaded.maps.at(0)->set_program(0, *loaded.programs.at(1)));
    std::array<std::uint64_t, 1> context{4};
    EXPECT_EQ(loaded.programs.at(0)->run(std::as_writable_bytes(std::span{context})).value().return_value, 324U);
    release(loaded);
}

TEST_F(TailCalls, one_from_a_callback_ends_the_callback) {
    ObjectBuilder object = with_jumps();
    object.program("main", join({mov(r6, r1), store(Size::dw, r10, -8, r1), mov(r1, 5), function_address(r2, 1),
                                 mov(r3, r10), add(r3, -8), mov(r4, 0), call_helper(k_loop), exit()}));
    object.subprogram("jumps", join({load(Size::dw, r1, r2, 0), tail_call(0, 0), mov(r0, 0), exit()}));
    object.program("target", {mov(r0, 1), exit()});
    LoadedObject loaded = make(object);
    ASSERT_TRUE(loaded.maps.at(0)->set_program(0, *loaded.programs.at(1)));
    EXPECT_EQ(loaded.programs.at(0)->run().value().return_value, 1U) << "the target's 1 stops the loop after one round";
    release(loaded);
}

TEST_F(TailCalls, the_targets_own_maps_and_arena_are_used_and_then_the_callers_again) {
    // Context: the address of the caller's arena, then that of the target's. Each holds a byte.
    ObjectBuilder from;
    from.arena(1).map("jumps", map_type::prog_array, 4, 4, 1);
    from.program("main", {mov(r6, r1), call_function(1), alu64(AluOp::lsh, r0, 8), load(Size::dw, r2, r6, 0),
                          to_program(r2, r2), load(Size::b, r2, r2, 0), alu64(AluOp::or_, r0, r2), exit()});
    from.subprogram("jumps", join({tail_call(1, 0), mov(r0, 0), exit()}));
    ObjectBuilder to;
    to.arena(1).program("target", {load(Size::dw, r2, r1, 8), to_program(r2, r2), load(Size::b, r0, r2, 0), exit()});
    LoadedObject caller = make(from);
    LoadedObject target = make(to);
    ASSERT_TRUE(caller.maps.at(1)->set_program(0, *target.programs.at(0)));
    *caller.arena->data() = std::byte{0x11};
    *target.arena->data() = std::byte{0x22};
    std::array<std::uint64_t, 2> context{caller.arena->user_vm_start().value(), target.arena->user_vm_start().value()};
    EXPECT_EQ(caller.programs.at(0)->run(std::as_writable_bytes(std::span{context})).value().return_value, 0x2211U);
    release(caller);
}

TEST_F(TailCalls, a_target_lives_as_long_as_an_array_holds_it) {
    LoadedObject caller = make(with_jumps().program("main", join({tail_call(0, 0), mov(r0, 1), exit()})));
    {
        const LoadedObject target = make(ObjectBuilder{}.arena(1).program(
            "target", join({imm64(r2, 64), to_program(r2, r2), load(Size::b, r0, r2, 0), add(r0, 6), exit()})));
        ASSERT_TRUE(caller.maps.at(0)->set_program(0, *target.programs.at(0)));
    }
    const RunResult result = caller.programs.at(0)->run().value();
    EXPECT_EQ(result.return_value, 6U);
    ASSERT_EQ(result.faults.size(), 1U);
    EXPECT_EQ(result.faults[0].place, "program 'target' instruction 3") << "and its faults are named";
    release(caller);
}

TEST_F(TailCalls, frames_of_another_size_are_refused) {
    LoadedObject caller = make(with_jumps().program("main", join({tail_call(0, 0), mov(r0, 1), exit()})));
    const LoadedObject target =
        ObjectBuilder{}.program("target", {mov(r0, 0), exit()}).load({.trace = {}, .frame_bytes = 1024}).value();
    ASSERT_TRUE(caller.maps.at(0)->set_program(0, *target.programs.at(0)));
    EXPECT_TRUE(refused(caller.programs.at(0)->run(), EINVAL, "frames of another size"));
    release(caller);
}

TEST_F(TailCalls, initial_programs_are_there_from_the_start) {
    ObjectBuilder object = with_jumps();
    object.program("main", join({tail_call(0, 3), mov(r0, 1), exit()})).program("target", {mov(r0, 2), exit()});
    object.file().maps[0].initial_programs.push_back({.index = 3, .function = "target"});
    LoadedObject loaded = make(object);
    EXPECT_EQ(loaded.programs.at(0)->run().value().return_value, 2U);
    release(loaded);
    object.file().maps[0].initial_programs.push_back({.index = 2, .function = "no_such"});
    EXPECT_TRUE(refused(object.load(), EINVAL, "map 'jumps' index 2: 'no_such' is not a loaded program"));
}

TEST_F(TailCalls, only_program_arrays_take_them) {
    ObjectBuilder object;
    object.map("values", map_type::array, 4, 4, 4);
    object.program("main", join({tail_call(0, 0), mov(r0, 1), exit()}));
    EXPECT_TRUE(refused(object.run(), EACCES, "R2 of a tail call must be a map of type PROG_ARRAY"));
}

}  // namespace

}  // namespace harena::bpf
