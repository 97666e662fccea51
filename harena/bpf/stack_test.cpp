// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/stack.hpp"

#include <cerrno>
#include <cstdint>
#include <cstring>

#include <gtest/gtest.h>

namespace harena::bpf {

namespace {

constexpr std::uint32_t k_frame = 512;

/// The code of the `Stop` that `body` throws, or 0.
template <typename Body>
int stops(Body&& body) {
    try {
        body();
    } catch (const Stop& stopped) {
        return stopped.code;
    }
    return 0;
}

std::uint64_t base_of(const Stack& stack, std::uint32_t depth = 0) { return stack.frame(depth).tag.base; }

const Value k_map_value = Value::region(Kind::map_value, 0x1000, 8);
const Value k_arena_pointer = Value::arena(0x1234);

TEST(Stack, frames_lie_side_by_side_and_do_not_overlap) {
    const Stack stack{k_frame, 3};
    for (std::uint32_t depth = 0; depth < 3; ++depth) {
        EXPECT_EQ(stack.frame(depth).kind(), Kind::stack);
        EXPECT_EQ(stack.frame(depth).tag.size, k_frame);
        EXPECT_EQ(base_of(stack, depth), base_of(stack) + depth * k_frame);
    }
}

TEST(Stack, a_whole_slot_keeps_kind_region_and_bits_of_what_is_spilled) {
    Stack stack{k_frame, 1};
    const std::uint64_t slot = base_of(stack) + 16;
    for (const Value& value : {Value::scalar(~0ULL), k_arena_pointer, k_map_value, stack.frame(0),
                               Value::region(Kind::context, 0x2000, 64, true), Value{3, {.kind = Kind::function}}}) {
        stack.store(slot, 8, value);
        const Value filled = stack.load(slot, 8);
        EXPECT_EQ(filled.bits, value.bits);
        EXPECT_EQ(filled.tag, value.tag);
    }
}

TEST(Stack, loads_and_stores_of_every_size_are_little_endian) {
    Stack stack{k_frame, 1};
    const std::uint64_t base = base_of(stack);
    stack.store(base, 8, Value::scalar(0x8877665544332211));
    for (unsigned offset = 0; offset < 8; ++offset) EXPECT_EQ(stack.load(base + offset, 1).bits, 0x11U * (offset + 1));
    EXPECT_EQ(stack.load(base + 3, 2).bits, 0x5544U);
    EXPECT_EQ(stack.load(base + 1, 4).bits, 0x55443322U);
    stack.store(base + 3, 4, Value::scalar(0xaabbccddeeff0011));
    EXPECT_EQ(stack.load(base, 8).bits, 0x88eeff0011332211U);
}

TEST(Stack, an_unaligned_load_of_eight_bytes_crosses_two_slots) {
    Stack stack{k_frame, 1};
    const std::uint64_t base = base_of(stack);
    stack.store(base, 8, Value::scalar(0x0706050403020100));
    stack.store(base + 8, 8, Value::scalar(0x0f0e0d0c0b0a0908));
    EXPECT_EQ(stack.load(base + 4, 8).bits, 0x0b0a090807060504U);
    stack.store(base + 8, 8, k_arena_pointer);
    EXPECT_EQ(stops([&] { (void)stack.load(base + 4, 8); }), EACCES);
}

TEST(Stack, a_part_of_a_spilled_pointer_is_neither_read_nor_overwritten) {
    Stack stack{k_frame, 1};
    const std::uint64_t slot = base_of(stack) + 8;
    for (const Value& pointer : {k_arena_pointer, k_map_value, stack.frame(0)}) {
        stack.store(slot, 8, pointer);
        for (const unsigned size : {1U, 2U, 4U}) {
            for (unsigned offset = 0; offset + size <= 8; ++offset) {
                EXPECT_EQ(stops([&] { (void)stack.load(slot + offset, size); }), EACCES);
                EXPECT_EQ(stops([&] { stack.store(slot + offset, size, Value::scalar(0)); }), EACCES);
            }
        }
        EXPECT_EQ(stops([&] { stack.store(slot - 1, 8, Value::scalar(0)); }), EACCES);
        EXPECT_EQ(stops([&] { stack.store(slot + 7, 8, Value::scalar(0)); }), EACCES);
        EXPECT_EQ(stack.load(slot, 8).tag, pointer.tag) << "what was refused has changed nothing";
        EXPECT_EQ(stack.load(slot, 8).bits, pointer.bits);
    }
}

TEST(Stack, overwriting_a_whole_spilled_pointer_makes_the_slot_a_number) {
    Stack stack{k_frame, 1};
    const std::uint64_t slot = base_of(stack);
    stack.store(slot, 8, k_map_value);
    stack.store(slot, 8, Value::scalar(5));
    EXPECT_EQ(stack.load(slot, 4).bits, 5U);
    EXPECT_EQ(stack.load(slot, 8).kind(), Kind::scalar);
}

TEST(Stack, pointers_are_spilled_by_aligned_stores_of_eight_bytes_only) {
    Stack stack{k_frame, 1};
    const std::uint64_t base = base_of(stack);
    for (const unsigned size : {1U, 2U, 4U}) EXPECT_EQ(stops([&] { stack.store(base, size, k_map_value); }), EACCES);
    EXPECT_EQ(stops([&] { stack.store(base + 4, 8, k_map_value); }), EACCES);
    EXPECT_EQ(stops([&] { stack.store(base + 4, 8, k_arena_pointer); }), 0) << "the program may know its bits";
    EXPECT_EQ(stack.load(base + 4, 8).kind(), Kind::scalar);
}

TEST(Stack, a_pointer_into_a_frame_is_not_kept_by_the_frame_of_a_caller) {
    Stack stack{k_frame, 3};
    EXPECT_EQ(stops([&] { stack.store(base_of(stack, 0), 8, stack.frame(1)); }), EACCES);
    EXPECT_EQ(stops([&] { stack.store(base_of(stack, 1) + 504, 8, stack.frame(2)); }), EACCES);
    EXPECT_EQ(stops([&] { stack.store(base_of(stack, 1), 8, stack.frame(1)); }), 0);
    EXPECT_EQ(stops([&] { stack.store(base_of(stack, 2), 8, stack.frame(0)); }), 0);
}

TEST(Stack, entering_a_frame_clears_it_and_no_other) {
    Stack stack{k_frame, 3};
    for (std::uint32_t depth = 0; depth < 3; ++depth) {
        stack.store(base_of(stack, depth), 8, k_map_value);
        stack.store(base_of(stack, depth) + 504, 8, Value::scalar(7));
    }
    stack.enter(1);
    for (const std::uint64_t at : {base_of(stack, 1), base_of(stack, 1) + 504}) {
        EXPECT_EQ(stack.load(at, 8).kind(), Kind::scalar);
        EXPECT_EQ(stack.load(at, 8).bits, 0U);
    }
    for (const std::uint32_t depth : {0U, 2U}) {
        EXPECT_EQ(stack.load(base_of(stack, depth), 8).tag, k_map_value.tag);
        EXPECT_EQ(stack.load(base_of(stack, depth) + 504, 8).bits, 7U);
    }
}

TEST(Stack, helpers_read_no_spilled_pointer_but_those_into_the_arena) {
    Stack stack{k_frame, 1};
    const std::uint64_t base = base_of(stack);
    stack.store(base + 8, 8, k_arena_pointer);
    EXPECT_EQ(stops([&] { stack.check_public(base, 24); }), 0);
    stack.store(base + 16, 8, k_map_value);
    EXPECT_EQ(stops([&] { stack.check_public(base, 16); }), 0);
    EXPECT_EQ(stops([&] { stack.check_public(base, 17); }), EACCES) << "its first byte";
    EXPECT_EQ(stops([&] { stack.check_public(base + 23, 1); }), EACCES) << "its last byte";
    EXPECT_EQ(stops([&] { stack.check_public(base + 24, 488); }), 0);
}

TEST(Stack, helpers_overwrite_spilled_pointers_as_a_whole_only) {
    Stack stack{k_frame, 1};
    const std::uint64_t base = base_of(stack);
    stack.store(base + 8, 8, k_map_value);
    EXPECT_EQ(stops([&] { stack.check_writable(base, 16); }), 0);
    EXPECT_EQ(stops([&] { stack.check_writable(base, 15); }), EACCES);
    EXPECT_EQ(stops([&] { stack.check_writable(base + 9, 8); }), EACCES);
    EXPECT_EQ(stops([&] { stack.check_writable(base + 8, 0); }), 0);
    stack.make_scalar(base, 16);
    EXPECT_EQ(stack.load(base + 8, 8).kind(), Kind::scalar);
}

TEST(Stack, atomics_touch_no_spilled_pointer_of_any_kind) {
    Stack stack{k_frame, 1};
    const std::uint64_t base = base_of(stack);
    stack.store(base, 8, k_arena_pointer);
    EXPECT_EQ(stops([&] { stack.check_plain(base + 4, 4); }), EACCES);
    EXPECT_EQ(stops([&] { stack.check_plain(base + 8, 8); }), 0);
}

}  // namespace

}  // namespace harena::bpf
