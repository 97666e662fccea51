// SPDX-License-Identifier: Apache-2.0
//
// What loading makes of an object's references, and what it refuses.
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/page_math.hpp"
#include "harena/bpf/engine_test_support.hpp"

namespace harena::bpf {

namespace {

using namespace test;

const Code k_nothing{mov(r0, 0), exit()};

ObjectBuilder with_program(const Code& code = k_nothing) { return ObjectBuilder{}.program("main", code); }

TEST(Link, constants_of_64_bits_arrive_whole) {
    for (const std::uint64_t value : {0x0123456789abcdefULL, 0xffffffff00000000ULL, 0x80000000ULL, 0xffffffffULL, 0ULL})
        EXPECT_TRUE(gives(evaluate({}, imm64(r0, value)), value));
}

TEST(Link, each_reference_gets_its_own_target) {
    ObjectBuilder object;
    object.map("first", map_type::array, 4, 8, 1).map("second", map_type::array, 4, 16, 1);
    object.data(".data", DataSection::Kind::data, std::vector<std::byte>(8, std::byte{1}))
        .data(".bss", DataSection::Kind::bss, std::vector<std::byte>(24));
    const auto size_of = [](std::int32_t map, std::int16_t offset) {
        return join({store(Size::dw, r10, -8, 0), map_address(r1, map), mov(r2, r10), add(r2, -8), call_helper(1),
                     load(Size::b, r0, r0, offset)});
    };
    EXPECT_TRUE(gives(evaluate(object, size_of(1, 15)), 0));
    EXPECT_TRUE(refused(evaluate(object, size_of(0, 15)), EFAULT, "outside its 8 bytes"));
    EXPECT_TRUE(gives(evaluate(object, join({data_address(r2, 0, 7), load(Size::b, r0, r2, 0)})), 1));
    EXPECT_TRUE(refused(evaluate(object, join({data_address(r2, 0, 8), load(Size::b, r0, r2, 0)})), EFAULT,
                        "outside its 8 bytes"));
    EXPECT_TRUE(gives(evaluate(object, join({data_address(r2, 1, 16), load(Size::dw, r0, r2, 0)})), 0));
    EXPECT_TRUE(refused(evaluate(object, join({data_address(r2, 1, 25), mov(r0, 0)})), EINVAL,
                        "offset 25 is outside section .bss of 24 bytes"));
}

TEST(Link, unknown_kfuncs_are_named_with_what_there_is) {
    ObjectBuilder object;
    object.arena(1).kfunc("bpf_arena_alloc").program("main", {call_kfunc(0), exit()});
    EXPECT_TRUE(refused(object.load(), EINVAL,
                        "program 'main' instruction 0: kfunc 'bpf_arena_alloc' is not known to this engine, which has "
                        "bpf_arena_alloc_pages"));
}

TEST(Link, the_arenas_kfuncs_need_an_arena) {
    ObjectBuilder object;
    object.kfunc("bpf_arena_free_pages").program("main", {call_kfunc(0), exit()});
    EXPECT_TRUE(refused(object.load(), EINVAL, "kfunc 'bpf_arena_free_pages' needs an arena, and the object has none"));
}

TEST(Link, a_strong_extern_that_is_unknown_is_refused) {
    ObjectBuilder object;
    object.kfunc("bpf_no_such")
        .program("main", join({imm64(r0, 0), exit()}))
        .refer(0, Reference::Kind::extern_address, 0);
    EXPECT_TRUE(refused(object.load(), EINVAL, "extern 'bpf_no_such' is not known"));
}

TEST(Link, a_wide_load_is_no_call) {
    ObjectBuilder object;
    object.arena(1)
        .kfunc("bpf_arena_free_pages")
        .program("main", join({imm64(r0, 0), exit()}))
        .refer(0, Reference::Kind::extern_call, 0);
    EXPECT_TRUE(refused(object.load(), EINVAL, "ld_imm64 has the reference of a call"));
}

TEST(Link, an_unknown_helper_is_named_by_number) {
    EXPECT_TRUE(refused(with_program({call_helper(4711), exit()}).load(), EINVAL,
                        "program 'main' instruction 0: invalid func unknown#4711"));
}

// --- arenas of objects
// ------------------------------------------------------------------------------------------------

constexpr std::uint32_t k_mmapable = 1U << 10;

TEST(LinkArena, definitions_are_checked) {
    EXPECT_TRUE(
        refused(with_program().arena(1, 0, 0).load(), EINVAL, "map 'arena': map_flags 0x0 lack BPF_F_MMAPABLE"));
    EXPECT_TRUE(
        refused(with_program().arena(1, 0, k_mmapable | 1).load(), EINVAL, "map_flags 0x1 are not known for an arena"));
    EXPECT_TRUE(refused(with_program().arena(0).load(), EINVAL, ""));
    EXPECT_TRUE(refused(with_program().arena(1, 4097).load(), EINVAL, ""));
    EXPECT_TRUE(refused(with_program().arena((1U << 20) + 1).load(), E2BIG, ""));
    EXPECT_TRUE(refused(with_program().arena(2, (arena_address() | 0xffffffff) - 4095).load(), ERANGE, ""));
    ObjectBuilder sizes = with_program().arena(1);
    sizes.file().maps[0].key_size = 4;
    EXPECT_TRUE(refused(sizes.load(), EINVAL, "an arena has neither keys nor values (key_size 4, value_size 0)"));
    EXPECT_TRUE(with_program().arena(1U << 20).load()) << "exactly 4 GiB";
}

TEST(LinkArena, an_occupied_address_is_an_error_that_names_it) {
    const auto first = with_program().arena(1, arena_address()).load();
    ASSERT_TRUE(first);
    EXPECT_TRUE(refused(with_program().arena(1, arena_address()).load(), EEXIST, ""));
}

ObjectBuilder with_arena_globals(std::size_t bytes, std::uint32_t pages) {
    std::vector<std::byte> initial(bytes);
    for (std::size_t i = 0; i < bytes; ++i) initial[i] = static_cast<std::byte>(i % 251);
    ObjectBuilder object;
    object.arena(pages, arena_address()).data(".addr_space.1", DataSection::Kind::arena, initial);
    return object;
}

TEST(LinkArena, globals_are_at_the_end_of_the_arena_and_are_numbers_to_the_program) {
    const std::uint64_t at = arena_address() + 8 * k_page_size - 2 * k_page_size;
    EXPECT_TRUE(gives(evaluate(with_arena_globals(5000, 8), data_address(r0, 0, 4999)), at + 4999));
    const Evaluated read = evaluate(with_arena_globals(5000, 8),
                                    join({data_address(r2, 0, 4999), to_program(r2, r2), load(Size::b, r0, r2, 0)}));
    EXPECT_TRUE(gives(read, 4999 % 251));
    EXPECT_EQ(read.faults, 0U);
    EXPECT_TRUE(refused(evaluate(with_arena_globals(5000, 8), join({data_address(r2, 0), load(Size::b, r0, r2, 0)})),
                        EACCES, "invalid mem access 'scalar'"));
    ObjectBuilder object = with_arena_globals(5000, 8);
    object.program("main", k_nothing);
    const auto loaded = object.load().value();
    EXPECT_EQ(loaded.data.at(0).address, loaded.arena->data() + 6 * k_page_size);
    EXPECT_EQ(loaded.arena->statistics().value().used.value(), 2U) << "allocated, so that nobody else gets the pages";
}

TEST(LinkArena, globals_may_fill_the_arena_and_no_more) {
    EXPECT_TRUE(with_arena_globals(2 * k_page_size, 2).program("main", k_nothing).load());
    EXPECT_TRUE(refused(with_arena_globals(2 * k_page_size + 1, 2).program("main", k_nothing).load(), E2BIG,
                        "the arena's globals take 3 pages and arena 'arena' has 2"));
    ObjectBuilder none;
    none.data(".addr_space.1", DataSection::Kind::arena, std::vector<std::byte>(8)).program("main", k_nothing);
    EXPECT_TRUE(
        refused(none.load(), EINVAL, "section .addr_space.1 holds globals for an arena, and the object has none"));
}

TEST(LinkArena, initialised_pointers_into_the_arena_are_the_hosts_addresses) {
    ObjectBuilder object = with_arena_globals(64, 4);
    object.data(".data", DataSection::Kind::data, std::vector<std::byte>(16)).program("main", k_nothing);
    object.file().data_references = {{.section = 0, .offset = 8, .target = 0, .addend = 40},
                                     {.section = 1, .offset = 8, .target = 0, .addend = 16}};
    const auto loaded = object.load().value();
    std::byte* pointer = nullptr;
    std::memcpy(&pointer, loaded.data.at(0).address + 8, sizeof pointer);
    EXPECT_EQ(pointer, loaded.data.at(0).address + 40);
    std::memcpy(&pointer, loaded.data.at(1).address + 8, sizeof pointer);
    EXPECT_EQ(pointer, loaded.data.at(0).address + 16);
}

TEST(Link, packet_programs_load_and_say_that_they_cannot_run_here) {
    for (const auto& [type, word] :
         {std::pair{ProgramType::xdp, "xdp"}, {ProgramType::tc, "tc"}, {ProgramType::socket, "socket"}}) {
        ObjectBuilder object;
        object.program("filter", k_nothing, type);
        const auto loaded = object.load();
        ASSERT_TRUE(loaded);
        EXPECT_TRUE(
            refused(loaded->programs.at(0)->run(), ENOTSUP, fmt::format("program 'filter' is of type {}", word)));
    }
}

}  // namespace

}  // namespace harena::bpf
