// SPDX-License-Identifier: Apache-2.0
//
// Atomics of every kind and size in every region, on absent arena pages, misaligned, and with pointers.
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/page_math.hpp"
#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

constexpr std::int32_t k_add = 0x00;
constexpr std::int32_t k_or = 0x40;
constexpr std::int32_t k_and = 0x50;
constexpr std::int32_t k_xor = 0xa0;

constexpr std::uint64_t k_old = 0xf0f0'aaaa'8000'00ff;
constexpr std::uint64_t k_operand = 0x1234'5678'8000'0f01;

/// What an operation on `old` leaves in memory.
std::uint64_t model(std::int32_t operation, std::uint64_t old, std::uint64_t operand) {
    switch (operation & ~k_atomic_fetch) {
        case k_add:
            return old + operand;
        case k_or:
            return old | operand;
        case k_and:
            return old & operand;
        case k_xor:
            return old ^ operand;
        default:
            return operand;  // xchg
    }
}

constexpr std::array k_plain{k_add, k_or, k_and, k_xor};
constexpr std::array k_fetching{k_add | k_atomic_fetch, k_or | k_atomic_fetch, k_and | k_atomic_fetch,
                                k_xor | k_atomic_fetch, k_atomic_xchg};

/// A place for 8 bytes, aligned: code that makes r6 point to it.
struct Place {
    const char* name;
    ObjectBuilder builder;
    Code begin;
};

std::vector<Place> places() {
    ObjectBuilder data;
    data.data(".data", DataSection::Kind::data, std::vector<std::byte>(16));
    ObjectBuilder array;
    array.map("values", map_type::array, 4, 16, 1);
    ObjectBuilder arena;
    arena.arena(2).kfunc("bpf_arena_alloc_pages");
    return {
        {"stack", {}, {mov(r6, r10), add(r6, -16)}},
        {"global variable", data, data_address(r6, 0)},
        {"map value", array,
         join(
             {store(Size::w, r10, -4, 0), mov(r2, r10), add(r2, -4), map_address(r1, 0), call_helper(1), mov(r6, r0)})},
        {"arena", arena,
         join(
             {map_address(r1, 0), mov(r2, 0), mov(r3, 1), mov(r4, -1), mov(r5, 0), call_kfunc(0), to_program(r6, r0)})},
    };
}

// 4-byte operations touch the low half of 8 bytes.
std::uint64_t with_low(std::uint64_t whole, std::uint64_t low, Size size) {
    return size == Size::dw ? low : (whole & 0xffffffff00000000) | static_cast<std::uint32_t>(low);
}
std::uint64_t cut(std::uint64_t value, Size size) {
    return size == Size::dw ? value : static_cast<std::uint32_t>(value);
}

TEST(InterpreterAtomics, operations_change_memory_and_fetch_the_old_content) {
    for (const Place& place : places()) {
        for (const Size size : {Size::w, Size::dw}) {
            const auto run = [&](std::int32_t operation, Reg result) {
                return evaluate(place.builder,
                                join({place.begin, imm64(r7, k_old), store(Size::dw, r6, 0, r7), imm64(r8, k_operand),
                                      atomic(size, operation, r6, 0, r8), load(Size::dw, r2, r6, 0), mov(r0, result)}));
            };
            for (const std::int32_t operation : k_plain) {
                EXPECT_TRUE(gives(run(operation, r2), with_low(k_old, model(operation, k_old, k_operand), size)))
                    << place.name << operation;
                EXPECT_TRUE(gives(run(operation, r8), k_operand)) << place.name << ": without fetch the register stays";
            }
            for (const std::int32_t operation : k_fetching) {
                EXPECT_TRUE(gives(run(operation, r2), with_low(k_old, model(operation, k_old, k_operand), size)))
                    << place.name << operation;
                EXPECT_TRUE(gives(run(operation, r8), cut(k_old, size)))
                    << place.name << operation << ": zero-extended";
            }
        }
    }
}

TEST(InterpreterAtomics, compare_exchange_writes_iff_equal_and_always_loads_r0) {
    for (const Place& place : places()) {
        for (const Size size : {Size::w, Size::dw}) {
            const auto run = [&](std::uint64_t expected, bool memory) {
                return evaluate(place.builder,
                                join({place.begin, imm64(r7, k_old), store(Size::dw, r6, 0, r7), imm64(r8, k_operand),
                                      imm64(r0, expected), atomic(size, k_atomic_cmpxchg, r6, 0, r8),
                                      memory ? Code{load(Size::dw, r0, r6, 0)} : Code{}}));
            };
            EXPECT_TRUE(gives(run(k_old, true), with_low(k_old, k_operand, size))) << place.name;
            EXPECT_TRUE(gives(run(k_old, false), cut(k_old, size))) << place.name << ": zero-extended also when equal";
            EXPECT_TRUE(gives(run(k_old + 1, true), k_old)) << place.name;
            EXPECT_TRUE(gives(run(k_old + 1, false), cut(k_old, size))) << place.name;
        }
        const auto high_differs =
            evaluate(place.builder, join({place.begin, imm64(r7, k_old), store(Size::dw, r6, 0, r7), mov(r8, 1),
                                          imm64(r0, k_old ^ (1ULL << 60)), atomic(Size::w, k_atomic_cmpxchg, r6, 0, r8),
                                          load(Size::w, r0, r6, 0)}));
        EXPECT_TRUE(gives(high_differs, 1)) << place.name << ": 4 bytes are compared";
    }
}

TEST(InterpreterAtomics, load_acquire_and_store_release_are_of_every_size) {
    for (const Place& place : places()) {
        for (const Size size : {Size::b, Size::h, Size::w, Size::dw}) {
            const std::uint64_t mask = size == Size::dw ? ~0ULL : (1ULL << (8 * bytes_of(size))) - 1;
            EXPECT_TRUE(
                gives(evaluate(place.builder, join({place.begin, imm64(r7, k_old), store(Size::dw, r6, 0, r7),
                                                    mov(r0, -1), atomic(size, k_atomic_load_acquire, r0, 0, r6)})),
                      k_old & mask))
                << place.name;
            EXPECT_TRUE(
                gives(evaluate(place.builder,
                               join({place.begin, imm64(r7, k_old), store(Size::dw, r6, 0, r7), imm64(r8, k_operand),
                                     atomic(size, k_atomic_store_release, r6, 0, r8), load(Size::dw, r0, r6, 0)})),
                      (k_old & ~mask) | (k_operand & mask)))
                << place.name;
        }
    }
}

TEST(InterpreterAtomics, the_fetched_value_may_replace_the_pointer_itself) {
    // r6 is pointer and operand of an atomic in the arena: both are read first.
    ObjectBuilder builder;
    builder.arena(2).kfunc("bpf_arena_alloc_pages");
    const Code begin = places()[3].begin;
    EXPECT_TRUE(gives(evaluate(builder, join({begin, store(Size::dw, r6, 0, 5),
                                              atomic(Size::dw, k_add | k_atomic_fetch, r6, 0, r6), mov(r0, r6)})),
                      5));
}

TEST(InterpreterAtomics, misaligned_ones_end_the_run) {
    for (const Place& place : places()) {
        for (const Size size : {Size::w, Size::dw}) {
            for (const std::int32_t operation : {k_add, k_atomic_xchg, k_atomic_cmpxchg, k_atomic_store_release}) {
                for (const std::int16_t offset : std::initializer_list<std::int16_t>{1, 2, 3}) {
                    const auto by_offset =
                        join({place.begin, mov(r0, 0), mov(r8, 1), atomic(size, operation, r6, offset, r8)});
                    EXPECT_TRUE(refused(evaluate(place.builder, by_offset), EFAULT, "misaligned atomic")) << place.name;
                    const auto by_pointer = join(
                        {place.begin, mov(r0, 0), mov(r8, 1), add(r6, offset), atomic(size, operation, r6, 0, r8)});
                    EXPECT_TRUE(refused(evaluate(place.builder, by_pointer), EFAULT, "misaligned atomic"))
                        << place.name;
                }
            }
        }
        EXPECT_TRUE(
            refused(evaluate(place.builder, join({place.begin, atomic(Size::h, k_atomic_load_acquire, r0, 1, r6)})),
                    EFAULT, "misaligned atomic"));
        EXPECT_TRUE(refused(evaluate(place.builder,
                                     join({place.begin, mov(r8, 1), mov(r0, 0), atomic(Size::dw, k_add, r6, 4, r8)})),
                            EFAULT, "misaligned atomic"));
        EXPECT_TRUE(gives(evaluate(place.builder,
                                   join({place.begin, mov(r8, 1), mov(r0, 0), atomic(Size::w, k_add, r6, 4, r8)})),
                          0));
    }
}

TEST(InterpreterAtomics, nothing_outside_the_region_is_touched) {
    for (const Place& place : places()) {
        if (std::string_view{place.name} == "arena") continue;
        for (const std::int16_t offset : std::initializer_list<std::int16_t>{-32768, -512, 16, 32760}) {
            EXPECT_TRUE(refused(evaluate(place.builder, join({place.begin, mov(r0, 0), mov(r8, 1),
                                                              atomic(Size::dw, k_add, r6, offset, r8)})),
                                EFAULT, "invalid access"))
                << place.name;
            EXPECT_TRUE(refused(evaluate(place.builder,
                                         join({place.begin, atomic(Size::dw, k_atomic_load_acquire, r0, offset, r6)})),
                                EFAULT, "invalid access"))
                << place.name;
        }
    }
}

TEST(InterpreterAtomics, a_context_takes_none) {
    for (const std::int32_t operation :
         {k_add, k_add | k_atomic_fetch, k_atomic_xchg, k_atomic_cmpxchg, k_atomic_store_release})
        EXPECT_TRUE(refused(evaluate({}, {mov(r0, 0), mov(r2, 1), atomic(Size::dw, operation, r1, 0, r2)}), EACCES,
                            "BPF_ATOMIC stores into R1 ctx is not allowed"));
    EXPECT_TRUE(refused(evaluate({}, {atomic(Size::dw, k_atomic_load_acquire, r0, 0, r1)}), EACCES,
                        "BPF_ATOMIC loads from R1 ctx is not allowed"));
}

TEST(InterpreterAtomics, numbers_are_no_pointers) {
    EXPECT_TRUE(refused(evaluate({}, {mov(r0, 0), mov(r2, 0), mov(r3, 1), atomic(Size::dw, k_add, r2, 0, r3)}), EACCES,
                        "invalid mem access 'scalar'"));
    EXPECT_TRUE(refused(evaluate({}, {mov(r2, 0), atomic(Size::dw, k_atomic_load_acquire, r0, 0, r2)}), EACCES,
                        "invalid mem access 'scalar'"));
}

TEST(InterpreterAtomics, spilled_pointers_are_left_alone) {
    ObjectBuilder builder;
    builder.arena(1);
    for (const Code& pointer : {Code{mov(r6, r10)}, Code{mov(r6, 0), to_program(r6, r6)}}) {
        const Code spilled = join({pointer, store(Size::dw, r10, -8, r6), mov(r0, 0), mov(r2, 1)});
        for (const std::int32_t operation : {k_add, k_add | k_atomic_fetch, k_atomic_xchg, k_atomic_cmpxchg})
            EXPECT_TRUE(refused(evaluate(builder, join({spilled, atomic(Size::dw, operation, r10, -8, r2)})), EACCES,
                                "spilled pointer"));
        EXPECT_TRUE(refused(evaluate(builder, join({spilled, atomic(Size::w, k_add, r10, -4, r2)})), EACCES,
                            "spilled pointer"));
        EXPECT_TRUE(refused(evaluate(builder, join({spilled, atomic(Size::w, k_atomic_load_acquire, r0, -4, r10)})),
                            EACCES, "spilled pointer"));
        EXPECT_TRUE(refused(evaluate(builder, join({spilled, atomic(Size::b, k_atomic_store_release, r10, -4, r2)})),
                            EACCES, "spilled pointer"));
    }
}

TEST(InterpreterAtomics, a_fetched_arena_pointer_is_a_number) {
    ObjectBuilder builder;
    builder.arena(1);
    EXPECT_TRUE(
        refused(evaluate(builder, join({mov(r6, 0), to_program(r6, r6), atomic(Size::dw, k_atomic_xchg, r10, -8, r6),
                                        atomic(Size::dw, k_atomic_xchg, r10, -8, r6), load(Size::b, r0, r6, 0)})),
                EACCES, "invalid mem access 'scalar'"));
}

// --- absent pages
// -----------------------------------------------------------------------------------------------------

class AbsentPages : public ::testing::Test {
protected:
    /// Runs `body` with r6 an arena pointer to the first byte of an arena without pages; r0 is the result.
    void run(const Code& body) {
        ObjectBuilder builder;
        builder.arena(2, arena_address());
        builder.program("main", join({mov(r9, r1), imm64(r6, arena_address() & 0xffffffff), to_program(r6, r6), body,
                                      store(Size::dw, r9, 0, r0), mov(r0, 0), exit()}));
        auto loaded = builder.load();
        ASSERT_TRUE(loaded) << loaded.error().message();
        std::array<std::uint64_t, 8> context{};
        auto result = loaded->programs.at(0)->run(std::as_writable_bytes(std::span{context}));
        ASSERT_TRUE(result) << result.error().message();
        value_ = context[0];
        result_ = *std::move(result);
        used_ = loaded->arena->statistics().value().used.value();
    }
    void expect_one_fault(Fault::Access access, std::uint64_t address) const {
        ASSERT_EQ(result_.faults.size(), 1U);
        EXPECT_EQ(result_.fault_count, 1U);
        EXPECT_EQ(result_.faults[0].access, access);
        EXPECT_EQ(result_.faults[0].address.value(), address);
        EXPECT_EQ(used_, 0U);
    }

    std::uint64_t value_ = 0;
    RunResult result_;
    std::uint64_t used_ = 0;
};

TEST_F(AbsentPages, operations_without_fetch_are_dropped) {
    for (const Size size : {Size::w, Size::dw}) {
        for (const std::int32_t operation : k_plain) {
            run(join({imm64(r0, k_operand), atomic(size, operation, r6, 16, r0)}));
            EXPECT_EQ(value_, k_operand) << "the operand stays";
            expect_one_fault(Fault::Access::write, arena_address() + 16);
        }
    }
}

TEST_F(AbsentPages, operations_with_fetch_give_zero) {
    for (const Size size : {Size::w, Size::dw}) {
        for (const std::int32_t operation : k_fetching) {
            run(join({imm64(r0, k_operand), atomic(size, operation, r6, 16, r0)}));
            EXPECT_EQ(value_, 0U);
            expect_one_fault(Fault::Access::write, arena_address() + 16);
        }
    }
}

TEST_F(AbsentPages, compare_exchange_gives_zero_in_r0) {
    for (const Size size : {Size::w, Size::dw}) {
        for (const std::uint64_t expected : {std::uint64_t{0}, k_old}) {
            run(join({imm64(r0, expected), imm64(r8, k_operand), atomic(size, k_atomic_cmpxchg, r6, 16, r8)}));
            EXPECT_EQ(value_, 0U);
            expect_one_fault(Fault::Access::write, arena_address() + 16);
            run(join(
                {imm64(r0, expected), imm64(r8, k_operand), atomic(size, k_atomic_cmpxchg, r6, 16, r8), mov(r0, r8)}));
            EXPECT_EQ(value_, k_operand) << "the desired value stays";
        }
    }
}

TEST_F(AbsentPages, load_acquire_gives_zero_and_store_release_is_dropped) {
    for (const Size size : {Size::b, Size::h, Size::w, Size::dw}) {
        run({mov(r0, -1), atomic(size, k_atomic_load_acquire, r0, 16, r6)});
        EXPECT_EQ(value_, 0U);
        expect_one_fault(Fault::Access::read, arena_address() + 16);
        run({mov(r0, -1), atomic(size, k_atomic_store_release, r6, 16, r0)});
        EXPECT_EQ(value_, ~0ULL);
        expect_one_fault(Fault::Access::write, arena_address() + 16);
    }
}

TEST_F(AbsentPages, an_atomic_over_its_own_pointer_reports_the_pointers_address) {
    run({add(r6, 64), atomic(Size::dw, k_add | k_atomic_fetch, r6, 8, r6), mov(r0, r6)});
    EXPECT_EQ(value_, 0U);
    expect_one_fault(Fault::Access::write, arena_address() + 72);
    run({add(r6, 64), atomic(Size::dw, k_atomic_load_acquire, r6, 8, r6), mov(r0, r6)});
    expect_one_fault(Fault::Access::read, arena_address() + 72);
}

TEST_F(AbsentPages, the_guards_fault_too_and_the_address_is_not_wrapped) {
    const std::uint64_t high = arena_address() >> 32 << 32;
    for (const std::int32_t operation : {k_add, k_atomic_xchg, k_or | k_atomic_fetch}) {
        run(join({imm64(r2, 0xffffffff), to_program(r2, r2), mov(r0, 1), atomic(Size::dw, operation, r2, 32761, r0)}));
        expect_one_fault(Fault::Access::write, high + 0x100007ff8);
        run({mov(r2, 0), to_program(r2, r2), mov(r0, 1), atomic(Size::dw, operation, r2, -32768, r0)});
        expect_one_fault(Fault::Access::write, high - 32768);
    }
}

}  // namespace

}  // namespace harena::bpf
