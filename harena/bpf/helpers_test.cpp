// SPDX-License-Identifier: Apache-2.0
//
// What helpers and kfuncs take and give, called by programs.
#include "harena/bpf/helpers.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/engine_test_support.hpp"
#include "harena/bpf/prototypes.hpp"

namespace harena::bpf {

namespace {

using namespace test;

constexpr std::uint64_t negative(int error) { return 0 - static_cast<std::uint64_t>(error); }

/// Code that puts `text`, with its final zero byte, at r10 - 64.
Code text_on_stack(std::string_view text) {
    std::array<char, 64> bytes{};
    EXPECT_LT(text.size(), bytes.size());
    std::memcpy(bytes.data(), text.data(), text.size());
    Code code;
    for (std::size_t at = 0; at < bytes.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, &bytes[at], sizeof word);
        code = join(
            {code, imm64(r1, word), store(Size::dw, r10, static_cast<std::int16_t>(static_cast<int>(at) - 64), r1)});
    }
    return code;
}

TEST(Prototypes, numbers_and_names_are_unique_and_found) {
    for (const Prototype& one : helper_table()) {
        EXPECT_EQ(find_helper(one.id), &one) << one.name;
        EXPECT_TRUE(one.name.starts_with("bpf_"));
        EXPECT_EQ(one.function == nullptr, one.id == k_helper_tail_call);
    }
    for (const Prototype& one : kfunc_table()) EXPECT_EQ(find_kfunc(one.name), &one) << one.name;
    for (const std::int32_t id : {0, -1, 4, 1000}) EXPECT_EQ(find_helper(id), nullptr);
    EXPECT_EQ(find_kfunc("bpf_arena_alloc"), nullptr);
}

TEST(Prototypes, memory_arguments_are_followed_by_their_size_and_keys_by_no_other_map) {
    for (const auto table : {helper_table(), kfunc_table()}) {
        for (const Prototype& one : table) {
            bool map_seen = false;
            for (std::size_t i = 0; i < one.arguments.size(); ++i) {
                const ArgKind kind = one.arguments[i];
                if (kind == ArgKind::input || kind == ArgKind::output) {
                    ASSERT_LT(i + 1, one.arguments.size());
                    EXPECT_EQ(one.arguments[i + 1], ArgKind::size) << one.name;
                }
                map_seen = map_seen || kind == ArgKind::map;
                EXPECT_TRUE(map_seen || (kind != ArgKind::map_key && kind != ArgKind::map_value)) << one.name;
            }
        }
    }
}

// --- maps
// -------------------------------------------------------------------------------------------------------------

class MapHelpers : public ::testing::TestWithParam<std::uint32_t> {
protected:
    static ObjectBuilder object() {
        ObjectBuilder builder;
        builder.map("values", GetParam(), 4, 8, 2);
        return builder;
    }
    static Code with_key(std::int32_t key) {
        return join({store(Size::w, r10, -4, key), map_address(r1, 0), mov(r2, r10), add(r2, -4)});
    }
    static Code update(std::int32_t key, std::int32_t value, std::int32_t flags) {
        return join({with_key(key), store(Size::dw, r10, -16, value), mov(r3, r10), add(r3, -16), mov(r4, flags),
                     call_helper(2)});
    }
    static Code look_up(std::int32_t key) { return join({with_key(key), call_helper(1)}); }
    static Code value(std::int32_t key) {
        return join({look_up(key), jump_if(JmpOp::jeq, r0, 0, 1), load(Size::dw, r0, r0, 0)});
    }
    static bool is_hash() { return GetParam() == map_type::hash; }
};
INSTANTIATE_TEST_SUITE_P(Helpers, MapHelpers, testing::Values(map_type::array, map_type::hash),
                         [](const auto& type) { return map_type_name(type.param); });

TEST_P(MapHelpers, an_update_is_found) {
    EXPECT_TRUE(gives(evaluate(object(), join({update(1, 77, 0), value(1)})), 77));
    EXPECT_TRUE(gives(evaluate(object(), join({update(1, 77, 0), value(0)})), 0));
    EXPECT_TRUE(gives(evaluate(object(), update(1, 77, 0)), 0));
}

TEST_P(MapHelpers, a_value_is_written_in_place) {
    EXPECT_TRUE(gives(evaluate(object(), join({update(1, 77, 0), look_up(1), jump_if(JmpOp::jeq, r0, 0, 1),
                                               store(Size::b, r0, 1, 1), value(1)})),
                      77 + 256));
    EXPECT_TRUE(refused(evaluate(object(), join({update(1, 77, 0), look_up(1), load(Size::dw, r0, r0, 1)})), EFAULT,
                        "outside its 8 bytes"));
}

TEST_P(MapHelpers, a_key_that_is_not_there_gives_null) {
    EXPECT_TRUE(gives(evaluate(object(), look_up(2)), 0));
    EXPECT_TRUE(refused(evaluate(object(), join({look_up(2), load(Size::dw, r0, r0, 0)})), EACCES, "NULL pointer"));
}

TEST_P(MapHelpers, errors_are_negative_numbers) {
    EXPECT_TRUE(gives(evaluate(object(), update(0, 1, 3)), negative(EINVAL)));
    EXPECT_TRUE(gives(evaluate(object(), join({update(0, 1, 0), update(0, 1, 1)})), negative(EEXIST)));
    if (is_hash()) {
        EXPECT_TRUE(gives(evaluate(object(), update(0, 1, 2)), negative(ENOENT)));
        EXPECT_TRUE(
            gives(evaluate(object(), join({update(0, 1, 0), update(1, 1, 0), update(2, 1, 0)})), negative(E2BIG)));
        EXPECT_TRUE(gives(evaluate(object(), join({with_key(0), call_helper(3)})), negative(ENOENT)));
        EXPECT_TRUE(gives(evaluate(object(), join({update(0, 1, 0), with_key(0), call_helper(3)})), 0));
    } else {
        EXPECT_TRUE(gives(evaluate(object(), update(2, 1, 0)), negative(E2BIG)));
        EXPECT_TRUE(gives(evaluate(object(), join({with_key(0), call_helper(3)})), negative(EINVAL)));
    }
}

TEST_P(MapHelpers, keys_and_values_are_whole_and_readable) {
    EXPECT_TRUE(
        refused(evaluate(object(), join({map_address(r1, 0), mov(r2, r10), add(r2, -3), call_helper(1), mov(r0, 0)})),
                EFAULT, "R2 invalid access to stack"));
    EXPECT_TRUE(refused(evaluate(object(), join({map_address(r1, 0), mov(r2, 0), call_helper(1), mov(r0, 0)})), EACCES,
                        "R2 invalid mem access 'scalar'"));
    EXPECT_TRUE(refused(evaluate(object(), join({with_key(0), mov(r3, r10), add(r3, -7), mov(r4, 0), call_helper(2)})),
                        EFAULT, "R3 invalid access to stack"));
    EXPECT_TRUE(refused(evaluate(object(), join({map_address(r1, 0), call_helper(1), mov(r0, 0)})), EACCES,
                        "R2 !read_ok: argument 2 of bpf_map_lookup_elem is not set"));
    EXPECT_TRUE(refused(evaluate(object(), {mov(r1, 0), mov(r2, r10), call_helper(1), mov(r0, 0)}), EACCES,
                        "R1 type=scalar expected=map_ptr (argument 1 of bpf_map_lookup_elem)"));
}

TEST(Helpers, an_arena_and_a_program_array_have_no_elements) {
    ObjectBuilder object;
    object.arena(1).map("jumps", map_type::prog_array, 4, 4, 1);
    for (const std::int32_t map : {0, 1})
        EXPECT_TRUE(refused(
            evaluate(object, join({map_address(r1, map), mov(r2, r10), add(r2, -8), call_helper(1), mov(r0, 0)})),
            EACCES, "has no elements"));
}

TEST(Helpers, an_arena_pointer_is_no_memory_for_a_helper) {
    ObjectBuilder object;
    object.arena(1).map("values", map_type::array, 4, 8, 1);
    EXPECT_TRUE(refused(
        evaluate(object, join({map_address(r1, 1), mov(r2, 0), to_program(r2, r2), call_helper(1), mov(r0, 0)})),
        EACCES, "invalid mem access 'arena'"));
}

TEST(Helpers, a_value_may_be_copied_from_another_map_or_itself) {
    ObjectBuilder object;
    object.map("values", map_type::array, 4, 8, 2);
    const Code look_up_1 =
        join({store(Size::w, r10, -4, 1), map_address(r1, 0), mov(r2, r10), add(r2, -4), call_helper(1)});
    EXPECT_TRUE(
        gives(evaluate(object, join({look_up_1, mov(r6, r0), store(Size::dw, r6, 0, 55), store(Size::w, r10, -4, 0),
                                     map_address(r1, 0), mov(r2, r10), add(r2, -4), mov(r3, r6), mov(r4, 0),
                                     call_helper(2), store(Size::w, r10, -4, 0), map_address(r1, 0), mov(r2, r10),
                                     add(r2, -4), call_helper(1), load(Size::dw, r0, r0, 0)})),
              55));
}

// --- others
// -----------------------------------------------------------------------------------------------------------

TEST(Helpers, clocks_do_not_go_backwards) {
    for (const std::int32_t clock : {5, 125, 160}) {
        const std::uint64_t before = clock == 125 ? os::boottime_ns() : os::monotonic_ns();
        const Evaluated result = evaluate({}, {call_helper(clock)});
        const std::uint64_t after = clock == 125 ? os::boottime_ns() : os::monotonic_ns();
        EXPECT_EQ(result.error, 0);
        EXPECT_LE(before, result.value);
        EXPECT_LE(result.value, after);
    }
}

TEST(Helpers, a_random_number_has_32_bits) {
    std::uint64_t all = 0;
    for (int i = 0; i < 64; ++i) all |= evaluate({}, {call_helper(7)}).value;
    EXPECT_EQ(all >> 32, 0U);
    EXPECT_GT(all, 0xff000000U) << "with 2^-64 against it";
}

TEST(Helpers, identities_are_those_of_the_running_thread) {
    const auto expected =
        static_cast<std::uint64_t>(os::process_id()) << 32 | static_cast<std::uint32_t>(os::thread_id());
    EXPECT_TRUE(gives(evaluate({}, {call_helper(14)}), expected));
    EXPECT_LT(evaluate({}, {call_helper(8)}).value, 1U << 16);
}

TEST(Helpers, the_name_of_the_thread_is_cut_and_padded_with_zeros) {
    const std::string name = os::thread_name();
    ASSERT_GE(name.size(), 4U);
    const auto comm = [](std::int32_t size) {
        return Code{store(Size::dw, r10, -16, -1),
                    store(Size::dw, r10, -8, -1),
                    mov(r1, r10),
                    add(r1, -16),
                    mov(r2, size),
                    call_helper(16)};
    };
    EXPECT_TRUE(gives(evaluate({}, comm(16)), 0));
    for (std::int16_t at = 0; at < 16; ++at) {
        const auto i = static_cast<std::size_t>(at);
        const unsigned char expected = i < name.size() && i < 15 ? static_cast<unsigned char>(name[i]) : 0;
        EXPECT_TRUE(
            gives(evaluate({}, join({comm(16), load(Size::b, r0, r10, static_cast<std::int16_t>(at - 16))})), expected))
            << at;
    }
    EXPECT_TRUE(gives(evaluate({}, join({comm(4), load(Size::b, r0, r10, -14)})), static_cast<unsigned char>(name[2])));
    EXPECT_TRUE(gives(evaluate({}, join({comm(4), load(Size::b, r0, r10, -13)})), 0));
    EXPECT_TRUE(gives(evaluate({}, join({comm(4), load(Size::b, r0, r10, -12)})), 255)) << "no more than asked for";
    EXPECT_TRUE(gives(evaluate({}, comm(0)), negative(EINVAL)));
    EXPECT_TRUE(refused(evaluate({}, comm(17)), EFAULT, "invalid access to stack"));
    EXPECT_TRUE(refused(evaluate({}, comm(-1)), EACCES, "unbounded memory access"));
    ObjectBuilder constant;
    constant.data(".rodata", DataSection::Kind::rodata, std::vector<std::byte>(16));
    EXPECT_TRUE(
        refused(evaluate(constant, join({data_address(r1, 0), mov(r2, 16), call_helper(16)})), EACCES, "read-only"));
}

TEST(Helpers, strings_are_compared_up_to_the_size_or_the_end) {
    const auto compare = [](std::string_view a, std::int32_t size, std::string_view b) {
        ObjectBuilder object;
        std::vector<std::byte> constant(b.size() + 1);
        std::ranges::copy(std::as_bytes(std::span{b}), constant.begin());
        object.data(".rodata", DataSection::Kind::rodata, constant);
        return evaluate(object, join({text_on_stack(a), mov(r1, r10), add(r1, -64), mov(r2, size), data_address(r3, 0),
                                      call_helper(182)}));
    };
    EXPECT_TRUE(gives(compare("arena", 6, "arena"), 0));
    EXPECT_TRUE(gives(compare("arena", 5, "arenas"), 0)) << "five bytes are compared";
    EXPECT_TRUE(gives(compare("arena", 6, "arenas"), ~0ULL));
    EXPECT_TRUE(gives(compare("arenas", 6, "arena"), 1));
    EXPECT_TRUE(gives(compare("b", 2, "a"), 1));
    EXPECT_TRUE(gives(compare("\xff", 2, "a"), 1)) << "bytes are unsigned";
    EXPECT_TRUE(gives(compare("x", 0, "y"), 0));
    EXPECT_TRUE(gives(compare("a", 60, "a"), 0)) << "what is behind the end does not matter";
}

TEST(Helpers, a_string_that_ends_before_the_size_and_its_memory_is_refused) {
    ObjectBuilder object;
    object.data(".rodata", DataSection::Kind::rodata, std::vector<std::byte>(8, std::byte{'x'}));
    EXPECT_TRUE(
        refused(evaluate(object, join({mov(r1, r10), add(r1, -16), mov(r2, 9), data_address(r3, 0), call_helper(182)})),
                EFAULT, "outside its 8 bytes"));
}

class TracePrintk : public ::testing::Test {
protected:
    struct Traced {
        std::vector<std::string> lines;
        std::uint32_t result = 0;
        int error = 0;
        std::string message;
    };
    /// Prints with the arguments in r3 to r5 that `arguments` sets.
    static Traced print(std::string_view format, const Code& arguments) {
        ObjectBuilder object;
        object.arena(1).program("main", join({mov(r9, r1), text_on_stack(format), mov(r1, r10), add(r1, -64),
                                              mov(r2, static_cast<std::int32_t>(format.size() + 1)), arguments,
                                              call_helper(6), exit()}));
        Traced traced;
        LoadOptions options;
        options.trace = [&](std::string_view line) { traced.lines.emplace_back(line); };
        const LoadedObject loaded = object.load(options).value();
        const auto result = loaded.programs.at(0)->run();
        if (result) {
            traced.result = result->return_value;
        } else {
            traced.error = result.error().code();
            traced.message = result.error().message();
        }
        return traced;
    }
    static void expect_line(std::string_view format, const Code& arguments, std::string_view line) {
        const Traced traced = print(format, arguments);
        ASSERT_EQ(traced.error, 0) << traced.message;
        ASSERT_EQ(traced.lines.size(), 1U) << format;
        EXPECT_EQ(traced.lines[0], line);
        EXPECT_EQ(traced.result, line.size());
    }
};

TEST_F(TracePrintk, numbers_are_written_as_asked) {
    const Code minus_one = join({mov(r3, -1), mov(r4, -1), mov(r5, -1)});
    expect_line("plain\n", {}, "plain\n");
    expect_line("%d %u %x", minus_one, "-1 4294967295 ffffffff");
    expect_line("%ld %lu %lx", minus_one, "-1 18446744073709551615 ffffffffffffffff");
    expect_line("%lld %llX %i", minus_one, "-1 FFFFFFFFFFFFFFFF -1");
    expect_line("100%% %c%c", {mov(r3, 'o'), mov(r4, 'k')}, "100% ok");
    expect_line("%p", imm64(r3, 0x12345678), "0000000012345678");
}

TEST_F(TracePrintk, arena_pointers_are_printed) { expect_line("%lx", {mov(r3, 4096), to_program(r3, r3)}, "1000"); }

TEST_F(TracePrintk, registers_that_the_format_does_not_use_do_not_matter) {
    expect_line("none", {mov(r3, r10), mov(r4, r9), mov(r5, r10)}, "none");
    expect_line("one %d", {mov(r3, 1), mov(r4, r9), mov(r5, r10)}, "one 1");
}

TEST_F(TracePrintk, those_that_it_uses_hold_numbers) {
    EXPECT_EQ(print("%lx", {mov(r3, r10)}).error, EACCES);
    EXPECT_NE(print("%lx", {mov(r3, r10)}).message.find("R3"), std::string::npos);
    EXPECT_EQ(print("%d %d", {mov(r3, 1)}).error, EACCES) << "not set";
    EXPECT_EQ(print("%d %d %d", {mov(r3, 1), mov(r4, 1), mov(r5, r9)}).error, EACCES);
}

TEST_F(TracePrintk, formats_beyond_a_kilobyte_print_nothing) {
    ObjectBuilder object;
    object.data(".rodata", DataSection::Kind::rodata, [] {
        std::vector<std::byte> text(1025, std::byte{'x'});
        text.back() = std::byte{0};
        return text;
    }());
    EXPECT_TRUE(gives(evaluate(object, join({data_address(r1, 0), mov(r2, 1025), call_helper(6)})),
                      static_cast<std::uint64_t>(-EINVAL)));
}

TEST(Helpers, arguments_of_more_than_4_mib_are_refused) {
    ObjectBuilder object;
    object.map("large", map_type::array, 4, 5U << 20, 1);
    const Code look_up = join({store(Size::w, r10, -4, 0), map_address(r1, 0), mov(r2, r10), add(r2, -4),
                               call_helper(1), jump_if(JmpOp::jne, r0, 0, 1), exit(), mov(r3, r0)});
    EXPECT_TRUE(refused(
        evaluate(object, join({look_up, map_address(r1, 0), mov(r2, r10), add(r2, -4), mov(r4, 0), call_helper(2)})),
        E2BIG, "bytes"));
}

TEST_F(TracePrintk, bad_formats_print_nothing) {
    for (const std::string_view format : {"%", "%s", "%q", "%l", "%d %d %d %d", "%08x", "\x1b[2J", "\x80"}) {
        const Traced traced = print(format, {mov(r3, 1), mov(r4, 1), mov(r5, 1)});
        EXPECT_EQ(traced.error, 0) << traced.message;
        EXPECT_TRUE(traced.lines.empty()) << format;
        EXPECT_EQ(traced.result, static_cast<std::uint32_t>(-EINVAL)) << format;
    }
    const Evaluated no_end =
        evaluate({}, join({text_on_stack("unfinished"), mov(r1, r10), add(r1, -64), mov(r2, 10), call_helper(6)}));
    EXPECT_TRUE(gives(no_end, negative(EINVAL)));
}

TEST_F(TracePrintk, a_full_disk_behind_stderr_does_no_harm) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const auto print_to_full_disk = [] {
        if (std::freopen("/dev/full", "w", stderr) == nullptr) std::_Exit(2);
        const Evaluated result =
            evaluate({}, join({text_on_stack("lost"), mov(r1, r10), add(r1, -64), mov(r2, 5), call_helper(6)}));
        std::_Exit(result.error == 0 ? 0 : 1);
    };
    EXPECT_EXIT(print_to_full_disk(), testing::ExitedWithCode(0), "");
}

// --- the arena's kfuncs
// -----------------------------------------------------------------------------------------------

class ArenaKfuncs : public ::testing::Test {
protected:
    static ObjectBuilder object() {
        ObjectBuilder builder;
        builder.arena(4, arena_address()).map("values", map_type::array, 4, 8, 1);
        builder.kfunc("bpf_arena_alloc_pages").kfunc("bpf_arena_free_pages").kfunc("bpf_arena_reserve_pages");
        return builder;
    }
    static Code alloc(std::int32_t pages, const Code& address = {mov(r2, 0)}) {
        return join({map_address(r1, 0), address, mov(r3, pages), mov(r4, -1), mov(r5, 0), call_kfunc(0)});
    }
    static Code free(const Code& address, std::int32_t pages) {
        return join({map_address(r1, 0), address, mov(r3, pages), call_kfunc(1)});
    }
    static Code reserve(const Code& address, std::int32_t pages) {
        return join({map_address(r1, 0), address, mov(r3, pages), call_kfunc(2)});
    }
};

TEST_F(ArenaKfuncs, pages_are_allocated_used_and_freed) {
    EXPECT_TRUE(gives(evaluate(object(), alloc(1)), arena_address()));
    const Evaluated used =
        evaluate(object(),
                 join({alloc(1), to_program(r6, r0), store(Size::dw, r6, 4088, 9), load(Size::dw, r0, r6, 4088)}));
    EXPECT_TRUE(gives(used, 9));
    EXPECT_EQ(used.faults, 0U);
    EXPECT_TRUE(
        gives(evaluate(object(), join({alloc(4), mov(r6, r0), free({mov(r2, r6)}, 4), alloc(4)})), arena_address()));
    const Evaluated after =
        evaluate(object(),
                 join({alloc(1), mov(r6, r0), free({mov(r2, r6)}, 1), to_program(r6, r6), load(Size::dw, r0, r6, 0)}));
    EXPECT_TRUE(gives(after, 0));
    EXPECT_EQ(after.faults, 1U);
}

TEST_F(ArenaKfuncs, the_result_of_an_allocation_is_a_number_until_it_is_cast) {
    EXPECT_TRUE(refused(evaluate(object(), join({alloc(1), load(Size::dw, r0, r0, 0)})), EACCES,
                        "invalid mem access 'scalar'"));
}

TEST_F(ArenaKfuncs, addresses_are_numbers_or_arena_pointers) {
    EXPECT_TRUE(
        gives(evaluate(object(), alloc(1, imm64(r2, arena_address() + k_page_size))), arena_address() + k_page_size));
    EXPECT_TRUE(
        gives(evaluate(object(), alloc(1, join({imm64(r2, arena_address() + k_page_size), to_program(r2, r2)}))),
              arena_address() + k_page_size));
    const Code second = imm64(r2, arena_address() + k_page_size);
    EXPECT_TRUE(
        gives(evaluate(object(), join({alloc(1, second), to_program(r6, r0), free({mov(r2, r6)}, 1), alloc(4)})),
              arena_address()));
}

TEST_F(ArenaKfuncs, the_first_page_of_a_window_is_null_as_an_arena_pointer) {
    static_assert(arena_address() << 32 == 0);
    EXPECT_TRUE(gives(evaluate(object(), join({alloc(1), to_program(r6, r0), free({mov(r2, r6)}, 1), alloc(4)})), 0))
        << "freeing NULL does nothing, as in Linux";
}

TEST_F(ArenaKfuncs, counts_and_nodes_have_32_bits) {
    EXPECT_TRUE(gives(evaluate(object(), join({map_address(r1, 0), mov(r2, 0), imm64(r3, 0x7'00000001),
                                               imm64(r4, 0xffffffff), mov(r5, 0), call_kfunc(0)})),
                      arena_address()));
    EXPECT_TRUE(gives(evaluate(object(), join({map_address(r1, 0), mov(r2, 0), mov(r3, 1), mov(r4, -1),
                                               imm64(r5, 1ULL << 40), call_kfunc(0)})),
                      0))
        << "flags have 64";
    EXPECT_TRUE(gives(evaluate(object(), alloc(0)), 0));
    EXPECT_TRUE(gives(evaluate(object(), alloc(5)), 0));
}

TEST_F(ArenaKfuncs, a_free_leaves_no_result) {
    EXPECT_TRUE(refused(evaluate(object(), free({mov(r2, 0)}, 1)), EACCES, "R0 !read_ok"));
}

TEST_F(ArenaKfuncs, reserved_pages_are_not_allocated) {
    const Code first = imm64(r2, arena_address());
    EXPECT_TRUE(gives(evaluate(object(), reserve(first, 4)), 0));
    EXPECT_TRUE(gives(evaluate(object(), join({reserve(first, 4), alloc(1)})), 0));
    EXPECT_TRUE(gives(evaluate(object(), join({reserve(first, 4), reserve(first, 1)})), negative(EBUSY)));
    EXPECT_TRUE(gives(evaluate(object(), reserve(first, 5)), negative(EINVAL)));
}

TEST_F(ArenaKfuncs, another_map_is_no_arena) {
    EXPECT_TRUE(refused(
        evaluate(object(), join({map_address(r1, 1), mov(r2, 0), mov(r3, 1), mov(r4, -1), mov(r5, 0), call_kfunc(0)})),
        EACCES, "bpf_arena_alloc_pages needs the arena, and 'values' is a map of type ARRAY"));
    EXPECT_TRUE(
        refused(evaluate(object(), {mov(r1, 0), mov(r2, 0), mov(r3, 1), mov(r4, -1), mov(r5, 0), call_kfunc(0)}),
                EACCES, "expected=map_ptr"));
}

TEST_F(ArenaKfuncs, a_weak_one_that_is_missing_is_an_error_only_where_it_is_called) {
    ObjectBuilder builder;
    builder.kfunc("no_such_kfunc", true);
    EXPECT_TRUE(gives(evaluate(builder, {mov(r0, 1), jump(1), call_kfunc(0)}), 1));
    EXPECT_TRUE(refused(evaluate(builder, {mov(r0, 1), call_kfunc(0)}), EINVAL, "weak kfunc"));
}

// A stray write must not make a helper of anything else.
TEST(Prototypes, lie_where_nothing_is_written) {
    for (const auto& table : {helper_table(), kfunc_table()}) {
        const auto at = reinterpret_cast<std::uint64_t>(table.data());
        for (const std::uint64_t address : {at, at + table.size_bytes() - 1}) {
            const auto mapping = os::find_mapping(address, 1);
            ASSERT_TRUE(mapping);
            EXPECT_NE(mapping->find(" r--p "), std::string::npos) << *mapping;
        }
    }
}

}  // namespace

}  // namespace harena::bpf
