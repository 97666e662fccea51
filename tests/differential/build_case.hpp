// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "harena/base/page_math.hpp"
#include "harena/bpf/test_programs.hpp"
#include "tests/differential/cases.hpp"

/// Cases made of instructions: r9 is the context, where results go word by word.
namespace harena::bpf::differential {

inline constexpr std::uint32_t k_arena_pages = 16;
inline constexpr std::uint32_t k_flag_mmapable = 1U << 10;
inline constexpr std::uint32_t k_flag_segv_on_fault = 1U << 17;
inline constexpr std::uint32_t k_flag_no_user_conv = 1U << 18;

/// Kfuncs by the number that `call_kfunc` has for them.
enum Kfunc : std::int32_t { kfunc_alloc, kfunc_free, kfunc_reserve };

struct ArenaPlace {
    std::uint64_t address = arena_address();
    std::uint32_t pages = k_arena_pages;
    std::uint32_t flags = k_flag_mmapable;
};

/// A builder with an arena (map 0) and the arena's kfuncs.
[[nodiscard]] inline test::ObjectBuilder builder(const ArenaPlace& place = {}) {
    test::ObjectBuilder made;
    made.arena(place.pages, place.address, place.flags);
    made.kfunc("bpf_arena_alloc_pages").kfunc("bpf_arena_free_pages").kfunc("bpf_arena_reserve_pages", true);
    return made;
}

/// The program that begins with r9 = r1 and returns 0 after `body`.
[[nodiscard]] inline Case make_case(std::string name, test::ObjectBuilder made, const test::Code& body,
                                    std::size_t context_bytes = k_context_bytes) {
    using namespace test;
    made.program("main", join({mov(r9, r1), body, mov(r0, 0), exit()}));
    Case one{.name = std::move(name), .file = made.build()};
    one.context = std::vector<std::byte>(context_bytes);
    return one;
}

[[nodiscard]] inline Insn to_context(std::size_t word, test::Reg reg) {
    return test::store(Size::dw, test::r9, static_cast<std::int16_t>(8 * word), reg);
}

/// r0 = alloc_pages(arena, address, count, node, flags). Forgets r1 to r5.
[[nodiscard]] inline test::Code alloc(std::uint64_t address, std::uint64_t count, std::uint64_t node = ~0ULL,
                                      std::uint64_t flags = 0) {
    using namespace test;
    return join({map_address(r1, 0), imm64(r2, address), imm64(r3, count), imm64(r4, node), imm64(r5, flags),
                 call_kfunc(kfunc_alloc)});
}
/// Forgets r0 to r5.
[[nodiscard]] inline test::Code free(std::uint64_t address, std::uint64_t count) {
    using namespace test;
    return join({map_address(r1, 0), imm64(r2, address), imm64(r3, count), call_kfunc(kfunc_free)});
}
/// r0 = reserve_pages(arena, address, count), 32 bits sign-extended. Forgets r1 to r5.
[[nodiscard]] inline test::Code reserve(std::uint64_t address, std::uint64_t count) {
    using namespace test;
    return join({map_address(r1, 0), imm64(r2, address), imm64(r3, count), call_kfunc(kfunc_reserve),
                 alu64(AluOp::mov, r0, r0, 32)});
}

}  // namespace harena::bpf::differential
