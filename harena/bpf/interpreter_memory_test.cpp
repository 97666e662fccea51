// SPDX-License-Identifier: Apache-2.0
//
// Loads, stores and spills of programs, by region; their atomics are in interpreter_atomics_test.cpp.
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

constexpr std::array k_sizes{Size::b, Size::h, Size::w, Size::dw};

std::vector<std::byte> counting_bytes(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(0x81 + i);
    return bytes;
}

std::uint64_t little_endian(const std::byte* bytes, unsigned size) {
    std::uint64_t value = 0;
    for (unsigned i = size; i > 0; --i) value = value << 8 | static_cast<std::uint64_t>(bytes[i - 1]);
    return value;
}

/// A region that a program reaches, with code that makes r6 point to its first byte. 64 bytes in all.
struct Region {
    const char* name;
    ObjectBuilder builder;
    Code begin;
    const char* word;  // of the message
};

constexpr std::int32_t k_region_bytes = 64;

std::vector<Region> writable_regions() {
    ObjectBuilder array;
    array.map("values", map_type::array, 4, k_region_bytes, 2);
    ObjectBuilder data;
    data.data(".data", DataSection::Kind::data, std::vector<std::byte>(k_region_bytes));
    return {
        {"context", {}, {mov(r6, r1)}, "context"},
        {"map value", array,
         join({store(Size::w, r10, -4, 1), mov(r2, r10), add(r2, -4), map_address(r1, 0), call_helper(1),
               jump_if(JmpOp::jne, r0, 0, 2), mov(r0, 0), exit(), mov(r6, r0)}),
         "map value"},
        {"global variable", data, data_address(r6, 0), "map value"},
    };
}

TEST(InterpreterMemory, what_is_stored_is_loaded_in_every_size_at_every_offset) {
    for (const Region& region : writable_regions()) {
        for (const Size size : k_sizes) {
            const auto bytes = static_cast<std::int16_t>(bytes_of(size));
            const std::uint64_t mask = bytes == 8 ? ~0ULL : (1ULL << (8 * bytes)) - 1;
            for (std::int16_t offset = 0; offset + bytes <= k_region_bytes; ++offset) {
                const Code code = join({region.begin, imm64(r2, 0x8877665544332211), store(size, r6, offset, r2),
                                        load(size, r0, r6, offset)});
                EXPECT_TRUE(gives(evaluate(region.builder, code), 0x8877665544332211 & mask))
                    << region.name << " " << offset;
            }
        }
    }
}

TEST(InterpreterMemory, nothing_outside_a_region_is_reached_at_any_offset) {
    for (const Region& region : writable_regions()) {
        for (const Size size : k_sizes) {
            const auto bytes = static_cast<std::int16_t>(bytes_of(size));
            for (const int offset : {-32768, -bytes, -1, k_region_bytes - bytes + 1, int{k_region_bytes}, 32767}) {
                const auto off = static_cast<std::int16_t>(offset);
                const std::string message =
                    fmt::format("invalid access to {}: offset {} size {}", region.word, offset, bytes);
                EXPECT_TRUE(
                    refused(evaluate(region.builder, join({region.begin, load(size, r0, r6, off)})), EFAULT, message));
                EXPECT_TRUE(refused(evaluate(region.builder, join({region.begin, store(size, r6, off, 0), mov(r0, 0)})),
                                    EFAULT, message));
            }
        }
    }
}

TEST(InterpreterMemory, a_pointer_that_went_around_the_address_space_reaches_nothing) {
    for (const Region& region : writable_regions()) {
        for (const std::uint64_t by : std::initializer_list<std::uint64_t>{
                 1ULL << 32, 1ULL << 63, 0xffff800000000000ULL, ~0ULL, 0ULL - 64, std::uint64_t{k_region_bytes}}) {
            const Code code = join({region.begin, imm64(r2, by), add(r6, r2), load(Size::dw, r0, r6, 0)});
            EXPECT_TRUE(refused(evaluate(region.builder, code), EFAULT, "invalid access")) << region.name << by;
        }
        EXPECT_TRUE(gives(evaluate(region.builder, join({region.begin, imm64(r2, 1ULL << 62), add(r6, r2),
                                                         alu64(AluOp::sub, r6, r2), load(Size::dw, r0, r6, 56)})),
                          0))
            << "and one that comes back does";
    }
}

TEST(InterpreterMemory, pointers_take_sums_with_numbers_on_either_side) {
    std::array<std::uint64_t, 8> context{0, 11, 22, 33, 0, 0, 0, 0};
    ObjectBuilder builder;
    builder.program("main",
                    join({mov(r2, 8), add(r2, r1), load(Size::dw, r0, r2, 0), add(r1, 24), load(Size::dw, r3, r1, 0),
                          add(r0, r3), alu64(AluOp::sub, r1, 8), load(Size::dw, r3, r1, 0), add(r0, r3), exit()}));
    EXPECT_EQ(builder.run(std::as_writable_bytes(std::span{context})).value().return_value, 66U);
}

TEST(InterpreterMemory, sign_extending_loads_extend_in_every_region) {
    for (const Region& region : writable_regions()) {
        const auto loaded = [&](Size size, std::uint64_t value) {
            return evaluate(region.builder, join({region.begin, imm64(r2, value), store(Size::dw, r6, 8, r2),
                                                  load(size, r0, r6, 8, Mode::memsx)}));
        };
        EXPECT_TRUE(gives(loaded(Size::b, 0x1180), 0xffffffffffffff80));
        EXPECT_TRUE(gives(loaded(Size::b, 0x117f), 0x7f));
        EXPECT_TRUE(gives(loaded(Size::h, 0x118000), 0xffffffffffff8000));
        EXPECT_TRUE(gives(loaded(Size::w, 0x1180000000), 0xffffffff80000000));
    }
}

TEST(InterpreterMemory, immediate_stores_are_sign_extended) {
    EXPECT_TRUE(gives(evaluate({}, {store(Size::dw, r1, 0, -2), load(Size::dw, r0, r1, 0)}), ~1ULL));
    EXPECT_TRUE(gives(evaluate({}, {store(Size::h, r1, 0, -2), load(Size::dw, r0, r1, 0)}), 0xfffe));
}

TEST(InterpreterMemory, a_context_has_the_size_that_the_host_gave) {
    ObjectBuilder builder;
    builder.program("main", {load(Size::b, r0, r1, 2), exit()});
    std::array<std::byte, 3> three{std::byte{1}, std::byte{2}, std::byte{3}};
    EXPECT_EQ(builder.run(three).value().return_value, 3U);
    EXPECT_TRUE(refused(builder.run(std::span{three}.first(2)), EFAULT, "offset 2 size 1 is outside its 2 bytes"));
    EXPECT_TRUE(refused(builder.run(), EFAULT, "outside its 0 bytes"));
}

TEST(InterpreterMemory, read_only_data_is_read_and_not_written) {
    ObjectBuilder builder;
    builder.data(".rodata", DataSection::Kind::rodata, counting_bytes(16));
    EXPECT_TRUE(
        gives(evaluate(builder, join({data_address(r2, 0, 8), load(Size::dw, r0, r2, 0)})), 0x908f8e8d8c8b8a89));
    EXPECT_TRUE(refused(evaluate(builder, join({data_address(r2, 0), store(Size::b, r2, 0, 1), mov(r0, 0)})), EACCES,
                        "read-only"));
    EXPECT_TRUE(
        refused(evaluate(builder, join({data_address(r2, 0), mov(r3, 1), atomic(Size::dw, 0, r2, 0, r3), mov(r0, 0)})),
                EACCES, "read-only"));
    EXPECT_TRUE(refused(evaluate(builder, join({data_address(r2, 0), mov(r3, 1),
                                                atomic(Size::b, k_atomic_store_release, r2, 0, r3), mov(r0, 0)})),
                        EACCES, "read-only"));
    EXPECT_TRUE(refused(evaluate(builder, join({data_address(r2, 0, 16), load(Size::b, r0, r2, 0)})), EFAULT,
                        "outside its 16 bytes"));
}

TEST(InterpreterMemory, wild_pointers_are_refused_and_null_is_named) {
    EXPECT_TRUE(refused(evaluate({}, {mov(r2, 0), load(Size::b, r0, r2, 0)}), EACCES, "NULL pointer"));
    EXPECT_TRUE(refused(evaluate({}, join({imm64(r2, 0x7fff00000000), load(Size::b, r0, r2, 0)})), EACCES,
                        "invalid mem access 'scalar'"));
    EXPECT_TRUE(refused(evaluate({}, join({imm64(r2, 0x7fff00000000), store(Size::b, r2, 0, 0), mov(r0, 0)})), EACCES,
                        "invalid mem access 'scalar'"));
    ObjectBuilder map;
    map.map("values", map_type::array, 4, 8, 1);
    EXPECT_TRUE(refused(evaluate(map, join({map_address(r2, 0), load(Size::dw, r0, r2, 0)})), EACCES,
                        "invalid mem access 'map_ptr'"));
    ObjectBuilder function;
    function.subprogram("callback", {mov(r0, 0), exit()});
    EXPECT_TRUE(refused(evaluate(function, join({function_address(r2, 0), load(Size::dw, r0, r2, 0)})), EACCES,
                        "invalid mem access 'func'"));
}

TEST(InterpreterMemory, registers_are_not_read_before_they_are_written) {
    for (unsigned reg = 2; reg <= 8; ++reg)
        EXPECT_TRUE(refused(evaluate({}, {mov(r0, static_cast<Reg>(reg))}), EACCES, fmt::format("R{} !read_ok", reg)));
    ObjectBuilder builder;
    builder.program("main", {mov(r2, r0), exit()});
    EXPECT_TRUE(refused(builder.run(), EACCES, "R0 !read_ok"));
}

// --- stack
// ------------------------------------------------------------------------------------------------------------

TEST(InterpreterMemory, the_stack_ends_at_r10_and_has_512_bytes) {
    for (const Size size : k_sizes) {
        const auto bytes = static_cast<std::int16_t>(bytes_of(size));
        for (const int offset : {-512, -512 + 1, -256, -bytes}) {
            const auto off = static_cast<std::int16_t>(offset);
            EXPECT_TRUE(gives(evaluate({}, {store(size, r10, off, 5), load(size, r0, r10, off)}), 5)) << offset;
        }
        for (const int offset : {-513, -512 - bytes, 1 - bytes, 0, 8, 32767, -32768}) {
            const auto off = static_cast<std::int16_t>(offset);
            EXPECT_TRUE(refused(evaluate({}, {load(size, r0, r10, off)}), EFAULT, "invalid access to stack")) << offset;
            EXPECT_TRUE(
                refused(evaluate({}, {store(size, r10, off, 5), mov(r0, 0)}), EFAULT, "invalid access to stack"))
                << offset;
        }
    }
}

TEST(InterpreterMemory, the_stack_reads_zero_before_it_is_written) {
    EXPECT_TRUE(gives(
        evaluate({}, {load(Size::dw, r0, r10, -512), load(Size::dw, r2, r10, -8), alu64(AluOp::or_, r0, r2)}), 0));
}

TEST(InterpreterMemory, larger_frames_are_given_on_request) {
    ObjectBuilder builder;
    builder.program("main", {store(Size::dw, r10, -32768, 7), load(Size::dw, r0, r10, -32768), exit()});
    const LoadedObject loaded = builder.load({.trace = {}, .frame_bytes = 32'768, .max_frames = 1}).value();
    EXPECT_EQ(loaded.programs.at(0)->run().value().return_value, 7U);
    for (const std::uint32_t bytes : {0U, 504U, 516U, 32'776U})
        EXPECT_TRUE(refused(builder.load({.trace = {}, .frame_bytes = bytes}), EINVAL, "frame_bytes"));
    for (const std::uint32_t frames : {0U, 65U})
        EXPECT_TRUE(refused(builder.load({.trace = {}, .max_frames = frames}), EINVAL, "max_frames"));
}

TEST(InterpreterMemory, spilled_pointers_of_every_kind_come_back_as_they_were) {
    ObjectBuilder builder;
    builder.arena(1).map("values", map_type::array, 4, 8, 1).map("jumps", map_type::prog_array, 4, 4, 1);
    builder.data(".data", DataSection::Kind::data, counting_bytes(16)).subprogram("answer", {mov(r0, 42), exit()});
    const auto filled = [](const Code& pointer, const Code& use) {
        return join({pointer, store(Size::dw, r10, -16, r6), mov(r6, 0), load(Size::dw, r6, r10, -16), use});
    };
    EXPECT_TRUE(
        gives(evaluate(builder, filled({mov(r6, r1)}, {store(Size::dw, r6, 8, 3), load(Size::dw, r0, r6, 8)})), 3))
        << "context";
    EXPECT_TRUE(
        gives(evaluate(builder, filled({mov(r6, r10)}, {store(Size::dw, r6, -8, 4), load(Size::dw, r0, r10, -8)})), 4))
        << "stack";
    EXPECT_TRUE(gives(evaluate(builder, filled(data_address(r6, 0, 8), {load(Size::b, r0, r6, 0)})), 0x89)) << "global";
    const Code look_up{mov(r1, r6),    store(Size::w, r10, -4, 0), mov(r2, r10), add(r2, -4),
                       call_helper(1), load(Size::dw, r0, r0, 0)};
    EXPECT_TRUE(gives(evaluate(builder, filled(map_address(r6, 1), look_up)), 0)) << "map";
    EXPECT_TRUE(gives(evaluate(builder, filled(function_address(r6, 0), {call_register(r6)})), 42)) << "function";
    const Evaluated arena = evaluate(builder, filled({mov(r6, 0), to_program(r6, r6)}, {load(Size::dw, r0, r6, 0)}));
    EXPECT_TRUE(gives(arena, 0));
    EXPECT_EQ(arena.faults, 1U) << "arena pointer";
    EXPECT_TRUE(gives(evaluate(builder, filled(imm64(r6, 0xfedcba9876543210), {mov(r0, r6)})), 0xfedcba9876543210))
        << "number";
}

TEST(InterpreterMemory, an_arena_pointer_that_went_through_memory_is_a_number) {
    ObjectBuilder builder;
    builder.arena(1).data(".data", DataSection::Kind::data, std::vector<std::byte>(8));
    const Code pointer{mov(r6, 0), to_program(r6, r6)};
    EXPECT_TRUE(refused(evaluate(builder, join({pointer, data_address(r2, 0), store(Size::dw, r2, 0, r6),
                                                load(Size::dw, r6, r2, 0), load(Size::b, r0, r6, 0)})),
                        EACCES, "invalid mem access 'scalar'"));
    EXPECT_TRUE(refused(evaluate(builder, join({pointer, store(Size::w, r10, -8, r6), load(Size::dw, r6, r10, -8),
                                                load(Size::b, r0, r6, 0)})),
                        EACCES, "invalid mem access 'scalar'"))
        << "half of it was spilled";
    EXPECT_TRUE(refused(evaluate(builder, join({pointer, store(Size::dw, r10, -12, r6), load(Size::dw, r6, r10, -12),
                                                load(Size::b, r0, r6, 0)})),
                        EACCES, "invalid mem access 'scalar'"))
        << "an unaligned spill is none";
}

TEST(InterpreterMemory, parts_of_a_spilled_pointer_are_neither_read_nor_overwritten) {
    ObjectBuilder builder;
    builder.arena(1);
    for (const Code& pointer : {Code{mov(r6, r10)}, Code{mov(r6, r1)}, Code{mov(r6, 0), to_program(r6, r6)}}) {
        const Code spilled = join({pointer, store(Size::dw, r10, -8, r6), mov(r0, 0)});
        for (const std::int16_t offset : std::initializer_list<std::int16_t>{-8, -6, -4}) {
            EXPECT_TRUE(refused(evaluate(builder, join({spilled, load(Size::h, r0, r10, offset)})), EACCES,
                                "invalid size of register fill"));
            EXPECT_TRUE(refused(evaluate(builder, join({spilled, load(Size::h, r0, r10, offset, Mode::memsx)})), EACCES,
                                "invalid size of register fill"));
            EXPECT_TRUE(refused(evaluate(builder, join({spilled, store(Size::h, r10, offset, 0)})), EACCES,
                                "corrupt spilled pointer"));
        }
        EXPECT_TRUE(
            gives(evaluate(builder, join({spilled, store(Size::dw, r10, -8, 9), load(Size::w, r0, r10, -8)})), 9));
    }
}

// --- arena
// ------------------------------------------------------------------------------------------------------------

/// An arena of four pages of which the host has made the second; r6 of programs points to its first byte.
class ArenaAccess : public ::testing::Test {
protected:
    RunResult run(const Code& body, std::uint64_t start = arena_address()) {
        arena_.reset();  // that of the run before has the address
        ObjectBuilder builder;
        builder.arena(4, start);
        builder.program("main", join({mov(r9, r1), imm64(r6, (start + k_page_size) & 0xffffffff), to_program(r6, r6),
                                      body, store(Size::dw, r9, 0, r0), mov(r0, 0), exit()}));
        auto loaded = builder.load();
        EXPECT_TRUE(loaded) << loaded.error().message();
        if (!loaded) return {};
        page_ = loaded->arena->data() + k_page_size;
        const auto bytes = counting_bytes(16);
        std::memcpy(page_, bytes.data(), bytes.size());
        std::memcpy(page_ + k_page_size - 16, bytes.data(), bytes.size());
        auto result = loaded->programs.at(0)->run(std::as_writable_bytes(std::span{context_}));
        EXPECT_TRUE(result) << result.error().message();
        value_ = context_[0];
        if (result) std::memcpy(after_.data(), page_, after_.size());
        arena_ = loaded->arena;
        return result ? *result : RunResult{};
    }

    std::array<std::uint64_t, 8> context_{};
    std::uint64_t value_ = 0;
    std::byte* page_ = nullptr;
    std::array<std::byte, 16> after_{};
    std::shared_ptr<Arena> arena_;
};

TEST_F(ArenaAccess, loads_of_every_size_and_offset_read_what_the_host_wrote) {
    const auto bytes = counting_bytes(16);
    for (const Size size : k_sizes) {
        for (std::int16_t offset = 0; offset <= 8; ++offset) {
            EXPECT_EQ(run({load(size, r0, r6, offset)}).fault_count, 0U);
            EXPECT_EQ(value_, little_endian(&bytes[static_cast<std::size_t>(offset)], bytes_of(size)));
        }
    }
}

TEST_F(ArenaAccess, sign_extending_loads_extend) {
    run({load(Size::b, r0, r6, 0, Mode::memsx)});
    EXPECT_EQ(value_, 0xffffffffffffff81U);
    run({load(Size::h, r0, r6, 0, Mode::memsx)});
    EXPECT_EQ(value_, 0xffffffffffff8281U);
    run({load(Size::w, r0, r6, 0, Mode::memsx)});
    EXPECT_EQ(value_, 0xffffffff84838281U);
}

TEST_F(ArenaAccess, stores_of_every_size_and_offset_are_seen_by_the_host) {
    for (const Size size : k_sizes) {
        for (std::int16_t offset = 0; offset <= 8; ++offset) {
            auto expected = counting_bytes(16);
            const std::uint64_t value = 0x1122334455667788;
            std::memcpy(&expected[static_cast<std::size_t>(offset)], &value, bytes_of(size));
            EXPECT_EQ(run(join({imm64(r2, value), store(size, r6, offset, r2), mov(r0, 0)})).fault_count, 0U);
            EXPECT_EQ(std::memcmp(after_.data(), expected.data(), expected.size()), 0)
                << bytes_of(size) << "@" << offset;
        }
    }
}

TEST_F(ArenaAccess, offsets_reach_32767_bytes_to_either_side) {
    run(join({imm64(r2, (arena_address() + k_page_size + 32768) & 0xffffffff), to_program(r2, r2),
              load(Size::b, r0, r2, -32768)}));
    EXPECT_EQ(value_, 0x81U);
    const std::uint64_t start = arena_address() + 16 * k_page_size;
    run({add(r6, -32767), load(Size::b, r0, r6, 32767)}, start);
    EXPECT_EQ(value_, 0x81U);
}

TEST_F(ArenaAccess, loads_of_absent_pages_give_zero_and_are_reported) {
    for (const Size size : k_sizes) {
        const RunResult result = run(join({imm64(r0, ~0ULL), load(size, r0, r6, 2 * 4096 + 24)}));
        EXPECT_EQ(value_, 0U);
        ASSERT_EQ(result.fault_count, 1U);
        ASSERT_EQ(result.faults.size(), 1U);
        EXPECT_EQ(result.faults[0].access, Fault::Access::read);
        EXPECT_EQ(result.faults[0].address.value(), arena_address() + 3 * k_page_size + 24);
    }
    for (const Size size : {Size::b, Size::h, Size::w}) {
        const RunResult result = run(join({imm64(r0, ~0ULL), load(size, r0, r6, -8, Mode::memsx)}));
        EXPECT_EQ(value_, 0U);
        EXPECT_EQ(result.fault_count, 1U);
    }
}

TEST_F(ArenaAccess, a_load_over_its_own_pointer_reports_the_pointers_address) {
    const RunResult result = run({mov(r0, 0), add(r6, 4096), load(Size::dw, r6, r6, 8)});
    ASSERT_EQ(result.faults.size(), 1U);
    EXPECT_EQ(result.faults[0].address.value(), arena_address() + 2 * k_page_size + 8);
}

TEST_F(ArenaAccess, stores_to_absent_pages_are_dropped_and_reported) {
    for (const Size size : k_sizes) {
        const RunResult result = run({store(size, r6, 4096, -1), load(size, r0, r6, 4096)});
        EXPECT_EQ(value_, 0U);
        ASSERT_EQ(result.faults.size(), 2U);
        EXPECT_EQ(result.faults[0].access, Fault::Access::write);
        EXPECT_EQ(result.faults[1].access, Fault::Access::read);
        EXPECT_EQ(arena_->statistics().value().used.value(), 1U) << "a program's touch makes no page";
        EXPECT_EQ(arena_->statistics().value().program_faults, 2U);
    }
}

TEST_F(ArenaAccess, an_access_that_straddles_into_an_absent_page_is_wholly_zero_or_dropped) {
    for (std::int16_t offset = 4089; offset < 4096; ++offset) {
        EXPECT_EQ(run(join({imm64(r0, ~0ULL), load(Size::dw, r0, r6, offset)})).fault_count, 1U);
        EXPECT_EQ(value_, 0U) << offset;
        EXPECT_EQ(run({store(Size::dw, r6, offset, -1), load(Size::b, r0, r6, 4095)}).fault_count, 1U);
        EXPECT_EQ(value_, 0x90U) << "the byte in the page that is there is unchanged";
    }
    EXPECT_EQ(run({load(Size::dw, r0, r6, -4)}).fault_count, 1U);
    EXPECT_EQ(value_, 0U);
    EXPECT_EQ(run({load(Size::dw, r0, r6, 4088)}).fault_count, 0U);
    EXPECT_EQ(value_, 0x908f8e8d8c8b8a89U);
}

TEST_F(ArenaAccess, the_edges_of_the_window_and_its_guards_fault_like_absent_pages) {
    struct Edge {
        std::uint32_t pointer;
        std::int16_t offset;
        std::uint64_t reported;  // beyond the high half
    };
    constexpr std::uint64_t k_high = arena_address() >> 32 << 32;
    for (const Edge edge :
         {Edge{0xffffffff, 32767, 0x100007ffe}, Edge{0, -32768, 0ULL - 32768}, Edge{0xffffffff, 0, 0xffffffff},
          Edge{0x80000000, 0, 0x80000000}, Edge{0xffffffff, -1, 0xfffffffe}, Edge{0xffffffff, 1, 0x100000000}}) {
        const Code pointer = join({imm64(r2, edge.pointer), to_program(r2, r2), mov(r0, 5)});
        for (const Size size : k_sizes) {
            const RunResult result =
                run(join({pointer, load(size, r0, r2, edge.offset), store(size, r2, edge.offset, 1)}));
            EXPECT_EQ(value_, 0U);
            ASSERT_EQ(result.faults.size(), 2U);
            EXPECT_EQ(result.faults[0].address.value(), k_high + edge.reported) << "not wrapped";
            EXPECT_EQ(result.faults[1].address.value(), k_high + edge.reported);
        }
    }
}

TEST_F(ArenaAccess, an_arena_that_ends_with_its_window_is_used_to_its_last_byte) {
    const std::uint64_t start = (arena_address() | 0xffffffff) + 1 - 4 * k_page_size;
    EXPECT_EQ(run(join({imm64(r2, 0xffffffff), to_program(r2, r2), load(Size::b, r0, r2, 0), load(Size::b, r0, r2, 1)}),
                  start)
                  .fault_count,
              2U);
    EXPECT_EQ(run(join({load(Size::b, r0, r6, 15)}), start).fault_count, 0U);
    EXPECT_EQ(value_, 0x90U);
}

TEST_F(ArenaAccess, pages_below_the_arenas_start_are_absent) {
    const std::uint64_t start = arena_address() + 16 * k_page_size;
    const RunResult result = run({load(Size::b, r0, r6, -4097)}, start);
    ASSERT_EQ(result.faults.size(), 1U);
    EXPECT_EQ(result.faults[0].address.value(), start - 1);
}

TEST_F(ArenaAccess, a_program_goes_on_after_more_faults_than_are_kept) {
    const RunResult result = run({mov(r7, 0), add(r6, 4096), load(Size::b, r0, r6, 0), add(r6, 1), add(r7, 1),
                                  jump_if(JmpOp::jlt, r7, 100, -4), mov(r0, r7)});
    EXPECT_EQ(value_, 100U);
    EXPECT_EQ(result.fault_count, 100U);
    ASSERT_EQ(result.faults.size(), FaultLog::k_kept);
    for (std::size_t i = 0; i < FaultLog::k_kept; ++i)
        EXPECT_EQ(result.faults[i].address.value(), arena_address() + 2 * k_page_size + 36 + i)
            << "the last ones, oldest first";
}

TEST_F(ArenaAccess, a_fault_names_program_and_instruction) {
    const RunResult result = run({mov(r0, 0), load(Size::b, r2, r6, 4096)});
    ASSERT_EQ(result.faults.size(), 1U);
    EXPECT_EQ(result.faults[0].insn, 5U);
    EXPECT_EQ(to_text(result.faults[0]),
              fmt::format("ERROR: Arena READ access at unmapped address {:#x}\n  program 'main' instruction 5",
                          arena_address() + 2 * k_page_size));
}

}  // namespace

}  // namespace harena::bpf
