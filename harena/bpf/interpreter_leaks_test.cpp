// SPDX-License-Identifier: Apache-2.0
//
// The leak rule, clause by clause: no program learns an address of the host other than the arena's own.
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

/// A kind of value whose bits are secret: code that puts one into r6.
struct Secret {
    std::string name;
    Code make;
    bool is_region;
};

class Leaks : public ::testing::Test {
protected:
    static constexpr std::int32_t k_values = 0;
    static constexpr std::int32_t k_jumps = 1;
    static constexpr std::int32_t k_answer = 0;
    static constexpr std::int32_t k_stop_at_once = 1;

    static ObjectBuilder builder() {
        ObjectBuilder object;
        object.map("values", map_type::array, 4, 64, 4).map("jumps", map_type::prog_array, 4, 4, 1).arena(2);
        object.data(".data", DataSection::Kind::data, std::vector<std::byte>(64));
        object.subprogram("answer", {mov(r0, 42), exit()}).subprogram("stop_at_once", {mov(r0, 1), exit()});
        object.kfunc("bpf_arena_alloc_pages").kfunc("bpf_arena_free_pages").kfunc("bpf_arena_reserve_pages");
        return object;
    }
    static std::vector<Secret> secrets() {
        return {
            {"stack", {mov(r6, r10), add(r6, -64)}, true},
            {"ctx", {mov(r6, r9)}, true},
            {"map_value", data_address(r6, 0), true},
            {"map_value",
             join({store(Size::w, r10, -4, 1), mov(r2, r10), add(r2, -4), map_address(r1, k_values), call_helper(1),
                   mov(r6, r0)}),
             true},
            {"map_ptr", map_address(r6, k_values), false},
            {"func", function_address(r6, k_answer), false},
        };
    }
    /// Runs `use` after making the secret; r0 to r5 and r7, r8 are numbers, r9 is the context.
    static Evaluated with(const Secret& secret, const Code& use) {
        return evaluate(builder(), join({secret.make, mov(r0, 0), mov(r1, 0), mov(r2, 0), mov(r3, 0), mov(r4, 0),
                                         mov(r5, 0), mov(r7, 0), mov(r8, 0), use}));
    }
    /// Expects that each of `uses` is refused for each secret.
    static void expect_refused(const std::vector<Code>& uses, std::string_view words = "") {
        for (const Secret& secret : secrets())
            for (std::size_t i = 0; i < uses.size(); ++i)
                EXPECT_TRUE(refused(with(secret, uses[i]), EACCES, words)) << secret.name << ", use " << i;
    }
};

constexpr std::int32_t k_add = 0x00;

TEST_F(Leaks, pointers_are_not_returned_by_programs) { expect_refused({{mov(r0, r6), exit()}}); }

TEST_F(Leaks, pointers_are_not_returned_by_global_functions_and_callbacks) {
    for (const bool is_global : {true, false}) {
        ObjectBuilder object = builder();  // function 2 returns its argument
        object.subprogram("identity", {mov(r0, r2), exit()}, is_global);
        const Code call =
            is_global
                ? Code{mov(r2, r9), call_function(2), mov(r0, 0)}
                : join({mov(r1, 1), function_address(r2, 2), mov(r3, r10), mov(r4, 0), call_helper(181), mov(r0, 0)});
        EXPECT_TRUE(
            refused(evaluate(object, call), EACCES, is_global ? "may not be returned" : "cannot return stack pointer"));
    }
}

TEST_F(Leaks, stack_pointers_are_not_returned_by_static_functions_and_other_pointers_are) {
    ObjectBuilder object = builder();
    object.subprogram("identity", {mov(r0, r1), exit()}).subprogram("own_frame", {mov(r0, r10), exit()});
    EXPECT_TRUE(gives(evaluate(object, {mov(r1, r9), call_function(2), load(Size::dw, r0, r0, 8)}), 0));
    EXPECT_TRUE(
        refused(evaluate(object, {mov(r1, r10), call_function(2), mov(r0, 0)}), EACCES, "cannot return stack pointer"));
    EXPECT_TRUE(refused(evaluate(object, {call_function(3), mov(r0, 0)}), EACCES, "cannot return stack pointer"));
}

TEST_F(Leaks, pointers_are_stored_on_the_stack_only) {
    const Code to_arena = {to_program(r7, r7), store(Size::dw, r7, 0, r6)};
    expect_refused({{store(Size::dw, r9, 0, r6)},  // context
                    {store(Size::w, r9, 0, r6)},
                    join({data_address(r7, 0), store(Size::dw, r7, 8, r6)}),  // global variable
                    to_arena,
                    {atomic(Size::dw, k_atomic_store_release, r9, 0, r6)},
                    join({data_address(r7, 0), atomic(Size::dw, k_atomic_store_release, r7, 8, r6)}),
                    {to_program(r7, r7), atomic(Size::dw, k_atomic_store_release, r7, 8, r6)}});
}

TEST_F(Leaks, pointers_are_not_copied_in_part) {
    const auto end = [](Class cls, bool big, std::int32_t bits) {
        return insn(make_code(cls, AluOp::end, big), r6, 0, 0, bits);
    };
    expect_refused({{mov32(r0, r6)},
                    {alu32(AluOp::mov, r0, r6, 8)},
                    {alu64(AluOp::mov, r0, r6, 8)},
                    {alu64(AluOp::mov, r0, r6, 32)},
                    {alu64(AluOp::neg, r6, 0)},
                    {alu32(AluOp::neg, r6, 0)},
                    {end(Class::alu, false, 16)},
                    {end(Class::alu64, false, 64)},
                    {store(Size::w, r10, -8, r6)},
                    {store(Size::b, r10, -8, r6)},
                    {store(Size::dw, r10, -12, r6)},
                    {store(Size::dw, r10, -8, r6), load(Size::w, r0, r10, -8)},
                    {store(Size::dw, r10, -8, r6), load(Size::b, r0, r10, -1)},
                    {store(Size::dw, r10, -8, r6), load(Size::w, r0, r10, -4, Mode::memsx)},
                    {store(Size::dw, r10, -8, r6), load(Size::dw, r0, r10, -12)},
                    {store(Size::dw, r10, -8, r6), atomic(Size::w, k_atomic_load_acquire, r0, -8, r10)}});
}

TEST_F(Leaks, pointers_take_part_in_no_atomic) {
    expect_refused({{atomic(Size::dw, k_add, r10, -8, r6)},
                    {atomic(Size::dw, k_atomic_xchg, r10, -8, r6)},
                    {atomic(Size::dw, k_atomic_cmpxchg, r10, -8, r6)},
                    {mov(r0, r6), atomic(Size::dw, k_atomic_cmpxchg, r10, -8, r7)},
                    {store(Size::dw, r10, -8, r6), atomic(Size::dw, k_atomic_xchg, r10, -8, r7), mov(r0, r7)},
                    {store(Size::dw, r10, -8, r6), atomic(Size::dw, k_add | k_atomic_fetch, r10, -8, r7)},
                    {store(Size::dw, r10, -8, r6), atomic(Size::dw, k_atomic_cmpxchg, r10, -8, r7)}});
}

TEST_F(Leaks, pointers_are_not_combined_with_arena_pointers) {
    for (const AluOp op : {AluOp::add, AluOp::sub, AluOp::xor_, AluOp::or_, AluOp::and_, AluOp::mul, AluOp::lsh})
        expect_refused({{to_program(r7, r7), alu64(op, r6, r7)},
                        {to_program(r7, r7), alu64(op, r7, r6)},
                        {to_program(r7, r7), alu32(op, r7, r6)}},
                       "pointer arithmetic prohibited");
    expect_refused({{to_program(r6, r6)}, {to_user(r6, r6)}}, "cannot be cast");
}

TEST_F(Leaks, of_pointers_only_sums_with_numbers_and_differences_in_a_region_are_taken) {
    for (const AluOp op : {AluOp::mul, AluOp::div, AluOp::mod, AluOp::or_, AluOp::and_, AluOp::xor_, AluOp::lsh,
                           AluOp::rsh, AluOp::arsh})
        expect_refused({{alu64(op, r6, r7)}, {alu64(op, r6, 1)}, {alu64(op, r7, r6)}, {alu64(op, r6, r6)}},
                       "pointer arithmetic prohibited");
    for (const AluOp op : {AluOp::add, AluOp::sub})
        expect_refused({{alu32(op, r6, r7)}, {alu32(op, r6, 1)}, {alu32(op, r7, r6)}, {alu32(op, r6, r6)}},
                       "pointer arithmetic prohibited");
    expect_refused({{alu64(AluOp::sub, r7, r6)}, {alu64(AluOp::add, r6, r6)}}, "pointer arithmetic prohibited");
    for (const Secret& secret : secrets()) {
        const Evaluated difference = with(secret, {mov(r7, r6), add(r7, 24), alu64(AluOp::sub, r7, r6), mov(r0, r7)});
        EXPECT_TRUE(secret.is_region ? gives(difference, 24)
                                     : refused(difference, EACCES, "pointer arithmetic prohibited"))
            << secret.name;
    }
}

TEST_F(Leaks, pointers_of_different_regions_are_neither_subtracted_nor_compared) {
    const auto all = secrets();
    for (std::size_t i = 0; i < all.size(); ++i) {
        for (std::size_t j = 0; j < all.size(); ++j) {
            if (i == j) continue;
            const Code two = join(
                {all[j].make, store(Size::dw, r10, -128, r6), all[i].make, load(Size::dw, r7, r10, -128), mov(r0, 0)});
            const auto label = all[i].name + " and " + all[j].name;
            EXPECT_TRUE(refused(evaluate(builder(), join({two, alu64(AluOp::sub, r6, r7)})), EACCES,
                                "pointer arithmetic prohibited"))
                << label;
            for (const JmpOp op : {JmpOp::jeq, JmpOp::jne, JmpOp::jlt, JmpOp::jset, JmpOp::jsge})
                EXPECT_TRUE(refused(evaluate(builder(), join({two, jump_if(op, r6, r7, 0)})), EACCES,
                                    "pointer comparison prohibited"))
                    << label;
        }
    }
}

TEST_F(Leaks, pointers_into_frames_of_two_functions_are_two_regions) {
    ObjectBuilder object = builder();
    object.subprogram("compares", {mov(r0, 0), jump_if(JmpOp::jlt, r1, r10, 0), exit()});
    object.subprogram("subtracts", {mov(r2, r10), alu64(AluOp::sub, r2, r1), mov(r0, r2), exit()});
    EXPECT_TRUE(refused(evaluate(object, {mov(r1, r10), call_function(2)}), EACCES, "pointer comparison prohibited"));
    EXPECT_TRUE(refused(evaluate(object, {mov(r1, r10), call_function(3)}), EACCES, "pointer arithmetic prohibited"));
}

TEST_F(Leaks, pointers_are_compared_with_zero_only_and_for_equality) {
    expect_refused({{jump_if(JmpOp::jeq, r6, 1, 0)},
                    {jump_if(JmpOp::jeq, r6, -1, 0)},
                    {mov(r7, 1), jump_if(JmpOp::jne, r7, r6, 0)},
                    {jump_if(JmpOp::jgt, r6, 0, 0)},
                    {jump_if(JmpOp::jset, r6, 0, 0)},
                    {jump_if(JmpOp::jset, r6, 1, 0)},
                    {jump_if(JmpOp::jslt, r6, 0, 0)},
                    {jump_if(JmpOp::jset, r6, r6, 0)},
                    {to_program(r7, r7), jump_if(JmpOp::jeq, r6, r7, 0)},
                    {insn(make_code(Class::jmp32, JmpOp::jeq, false), r6, 0, 0, 0)},
                    {insn(make_code(Class::jmp32, JmpOp::jeq, true), r6, r6, 0, 0)}},
                   "pointer comparison prohibited");
    for (const Secret& secret : secrets()) {
        EXPECT_TRUE(gives(with(secret, {mov(r0, 1), jump_if(JmpOp::jne, r6, 0, 1), mov(r0, 0)}), 1)) << secret.name;
        EXPECT_TRUE(gives(with(secret, {mov(r0, 1), jump_if(JmpOp::jeq, r7, r6, 1), mov(r0, 0)}), 0)) << secret.name;
    }
}

// By moving a pointer until it meets NULL or goes around the address space, a comparison would tell where it points to.
TEST_F(Leaks, comparisons_tell_the_offsets_of_pointers_and_not_their_addresses) {
    for (const Secret& secret : secrets()) {
        if (!secret.is_region) continue;
        for (unsigned bit = 0; bit < 62; ++bit) {
            for (const bool up : {true, false}) {
                const Code moved =
                    join({imm64(r7, 1ULL << bit), mov(r8, r6), alu64(up ? AluOp::add : AluOp::sub, r8, r7)});
                for (const auto& [op, taken] : {std::pair{JmpOp::jlt, !up},
                                                {JmpOp::jgt, up},
                                                {JmpOp::jle, !up},
                                                {JmpOp::jge, up},
                                                {JmpOp::jslt, !up},
                                                {JmpOp::jsgt, up},
                                                {JmpOp::jeq, false},
                                                {JmpOp::jne, true}})
                    EXPECT_TRUE(gives(with(secret, join({moved, mov(r0, 1), jump_if(op, r8, r6, 1), mov(r0, 0)})),
                                      taken ? 1 : 0))
                        << secret.name << bit;
            }
        }
    }
    // Farther away the order is of no meaning, but the same for every address.
    for (const std::uint64_t by : {1ULL << 62, 3ULL << 61, 1ULL << 63, 3ULL << 62}) {
        for (const JmpOp op :
             {JmpOp::jlt, JmpOp::jgt, JmpOp::jle, JmpOp::jge, JmpOp::jslt, JmpOp::jsgt, JmpOp::jsle, JmpOp::jsge}) {
            std::uint64_t taken = 0;
            std::uint64_t regions = 0;
            for (const Secret& secret : secrets()) {
                if (!secret.is_region) continue;
                ++regions;
                taken += with(secret, join({imm64(r7, by), mov(r8, r6), add(r8, r7), mov(r0, 1), jump_if(op, r8, r6, 1),
                                            mov(r0, 0)}))
                             .value;
            }
            EXPECT_TRUE(taken == 0 || taken == regions);
        }
    }
    // The host knows where its context is, and tells the program: it must not be able to check.
    std::array<std::uint64_t, 8> context{};
    context[0] = 0 - reinterpret_cast<std::uint64_t>(context.data());
    ObjectBuilder object;
    object.program("main", {load(Size::dw, r2, r1, 0), add(r1, r2), mov(r0, 1), jump_if(JmpOp::jeq, r1, 0, 1),
                            mov(r0, 0), exit()});
    EXPECT_EQ(object.run(std::as_writable_bytes(std::span{context})).value().return_value, 0U)
        << "a moved pointer is never NULL";
}

TEST_F(Leaks, a_function_at_the_beginning_of_the_object_is_not_null) {
    ObjectBuilder object;
    object.subprogram("answer", {mov(r0, 42), exit()});
    EXPECT_TRUE(gives(
        evaluate(object, join({function_address(r6, 0), mov(r0, 1), jump_if(JmpOp::jne, r6, 0, 1), mov(r0, 0)})), 1));
}

TEST_F(Leaks, pointers_are_not_passed_to_helpers_as_numbers) {
    const Code loop =
        join({mov(r1, r6), function_address(r2, k_stop_at_once), mov(r3, 0), mov(r4, 0), call_helper(181)});
    const Code loop_flags =
        join({mov(r1, 1), function_address(r2, k_stop_at_once), mov(r3, 0), mov(r4, r6), call_helper(181)});
    const Code update_flags =
        join({map_address(r1, k_values), mov(r2, r10), add(r2, -64), mov(r3, r2), mov(r4, r6), call_helper(2)});
    expect_refused({loop, loop_flags, update_flags});
}

TEST_F(Leaks, pointers_are_not_passed_to_the_arenas_functions) {
    const auto alloc = [](Reg argument) {
        return join(
            {map_address(r1, 2), mov(r2, 0), mov(r3, 1), mov(r4, -1), mov(r5, 0), mov(argument, r6), call_kfunc(0)});
    };
    const auto free = [](Reg argument, std::int32_t kfunc) {
        return join({map_address(r1, 2), mov(r2, 0), mov(r3, 1), mov(argument, r6), call_kfunc(kfunc)});
    };
    expect_refused({alloc(r2), alloc(r3), alloc(r4), alloc(r5), free(r2, 1), free(r3, 1), free(r2, 2), free(r3, 2)});
}

TEST_F(Leaks, pointers_are_not_printed) {
    const Code format = join({imm64(r7, 0x7025), store(Size::dw, r10, -8, r7), mov(r1, r10), add(r1, -8), mov(r2, 8)});
    expect_refused({join({format, mov(r3, r6), call_helper(6)})});
}

TEST_F(Leaks, spilled_pointers_are_not_read_through_memory_arguments) {
    const Code update = join({store(Size::dw, r10, -32, r6), map_address(r1, k_values), mov(r2, r10), add(r2, -68),
                              mov(r3, r10), add(r3, -64), store(Size::w, r10, -68, 0), mov(r4, 0), call_helper(2)});
    const Code as_key =
        join({store(Size::dw, r10, -8, r6), map_address(r1, k_values), mov(r2, r10), add(r2, -8), call_helper(1)});
    const Code compare = join({store(Size::dw, r10, -8, r6), mov(r1, r10), add(r1, -8), mov(r2, 8), mov(r3, r10),
                               add(r3, -64), call_helper(182)});
    const Code as_text = join({store(Size::dw, r10, -8, r6), mov(r1, r10), add(r1, -64), mov(r2, 8), mov(r3, r10),
                               add(r3, -8), call_helper(182)});
    const Code printed = join({store(Size::dw, r10, -8, r6), mov(r1, r10), add(r1, -8), mov(r2, 8), call_helper(6)});
    expect_refused({update, as_key, compare, printed}, "invalid indirect read from stack");
    expect_refused({as_text});
}

TEST_F(Leaks, helpers_overwrite_no_part_of_a_spilled_pointer) {
    expect_refused({{store(Size::dw, r10, -8, r6), mov(r1, r10), add(r1, -16), mov(r2, 12), call_helper(16)}},
                   "corrupt spilled pointer");
    for (const Secret& secret : secrets())
        EXPECT_TRUE(gives(with(secret, {store(Size::dw, r10, -8, r6), mov(r1, r10), add(r1, -16), mov(r2, 16),
                                        call_helper(16), load(Size::b, r0, r10, -1)}),
                          0));
}

TEST_F(Leaks, tail_calls_take_no_pointers_but_context_and_map) {
    for (const Secret& secret : secrets()) {
        const bool is_context = secret.name == "ctx";
        const Evaluated first =
            with(secret, join({mov(r1, r6), map_address(r2, k_jumps), mov(r3, 0), call_helper(12), mov(r0, 0)}));
        EXPECT_TRUE(is_context ? gives(first, 0) : refused(first, EACCES, "R1 of a tail call")) << secret.name;
        EXPECT_TRUE(refused(with(secret, {mov(r1, r9), mov(r2, r6), mov(r3, 0), call_helper(12), mov(r0, 0)}), EACCES,
                            "R2 of a tail call"));
        EXPECT_TRUE(refused(
            with(secret, join({mov(r1, r9), map_address(r2, k_jumps), mov(r3, r6), call_helper(12), mov(r0, 0)})),
            EACCES, "R3 of a tail call"));
    }
}

TEST_F(Leaks, a_frames_address_is_not_left_in_the_frame_of_a_caller) {
    ObjectBuilder object = builder();
    object.subprogram("spills", {store(Size::dw, r1, 0, r10), mov(r0, 0), exit()});
    object.subprogram("spills_its_callers", {store(Size::dw, r1, 0, r1), mov(r0, 0), exit()});
    EXPECT_TRUE(refused(evaluate(object, {mov(r1, r10), add(r1, -8), call_function(2)}), EACCES,
                        "cannot spill pointers to stack into stack frame of the caller"));
    EXPECT_TRUE(gives(evaluate(object, {mov(r1, r10), add(r1, -8), call_function(3), load(Size::dw, r2, r10, -8),
                                        store(Size::dw, r2, -8, 6), load(Size::dw, r0, r10, -16)}),
                      6));
}

// The key that a callback is given dies with the call: a pointer to it that was kept shows no memory of the host.
TEST_F(Leaks, the_key_of_a_callback_that_was_kept_shows_nothing_of_the_host) {
    ObjectBuilder object;
    object.map("values", map_type::hash, 512, 8, 4);
    object.subprogram("keeps_key", {store(Size::dw, r4, 0, r2), mov(r0, 0), exit()});
    const Code iterate =
        join({map_address(r1, 0), function_address(r2, 0), mov(r3, r10), add(r3, -8), mov(r4, 0), call_helper(164)});
    const Code insert = join({mov(r6, r10), add(r6, -512), store(Size::dw, r10, -512, 77), map_address(r1, 0),
                              mov(r2, r6), mov(r3, r6), mov(r4, 0), call_helper(2)});
    EXPECT_TRUE(
        gives(evaluate(object, join({insert, iterate, load(Size::dw, r7, r10, -8), load(Size::dw, r0, r7, 0)})), 0));
    EXPECT_TRUE(
        refused(evaluate(object, join({insert, iterate, load(Size::dw, r7, r10, -8), store(Size::b, r7, 0, 1)})),
                EACCES, "read-only"));
    EXPECT_TRUE(
        refused(evaluate(object, join({insert, iterate, load(Size::dw, r7, r10, -8), load(Size::b, r0, r7, 512)})),
                EFAULT, "outside its 512 bytes"));
}

TEST_F(Leaks, initialised_pointers_lead_into_the_arena_only) {
    ObjectBuilder object;
    object.data(".data", DataSection::Kind::data, std::vector<std::byte>(16));
    object.file().data_references.push_back({.section = 0, .offset = 0, .target = 0, .addend = 8});
    EXPECT_TRUE(refused(evaluate(object, {mov(r0, 0)}), ENOTSUP, "only pointers into the arena"));
}

TEST_F(Leaks, the_address_of_a_kfunc_is_not_one_of_the_host) {
    ObjectBuilder object;
    object.kfunc("bpf_arena_alloc_pages").kfunc("no_such_kfunc", true).arena(1);
    object.program("main", join({imm64(r0, 0), imm64(r2, 0), add(r0, r2), exit()}));
    object.refer(0, Reference::Kind::extern_address, 0).refer(2, Reference::Kind::extern_address, 1);
    object.file().instructions[0].src = object.file().instructions[2].src = 3;
    EXPECT_EQ(object.run().value().return_value, 1U);
}

}  // namespace

}  // namespace harena::bpf
