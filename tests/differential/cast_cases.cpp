// SPDX-License-Identifier: Apache-2.0
// addr_space_cast with NULL, with pointers of every form, with and without NO_USER_CONV.
#include <array>

#include "tests/differential/build_case.hpp"

namespace harena::bpf::differential {

namespace {

using namespace test;

constexpr std::array<std::uint64_t, 8> k_values{
    0, 1, 0xffffffff, 0x100000000, 0x1234567800000000, 0x80000000, 0x7fffffff, 0xffffffffffffffff};

/// The values at the begin of the context, their results behind them. The values are unknown to the verifier.
Case over_values(std::string name, std::uint32_t flags, std::uint64_t address, const Code& operation) {
    Code body = imm64(r8, 0x1'0000'0001);
    for (std::size_t i = 0; i < k_values.size(); ++i) {
        body.push_back(load(Size::dw, r1, r9, static_cast<std::int16_t>(8 * i)));
        body.insert(body.end(), operation.begin(), operation.end());
        body.push_back(to_context(k_values.size() + 2 * i, r2));
        body.push_back(add(r2, r8));  // tells its kind
        body.push_back(to_context(k_values.size() + 2 * i + 1, r2));
    }
    Case one = make_case(std::move(name), builder({.address = address, .flags = k_flag_mmapable | flags}), body);
    std::memcpy(one.context.data(), k_values.data(), sizeof k_values);
    return one;
}

}  // namespace

std::vector<Case> cast_cases() {
    std::vector<Case> cases;
    // An address whose low half is not 0, too.
    for (const std::uint64_t address : {arena_address(), arena_address() + 0x1234'5000})
        for (const std::uint32_t flags : {0U, k_flag_no_user_conv}) {
            const auto name = [&](const char* what) {
                return fmt::format("{}, {}, at {:#x}", what, flags == 0 ? "plain" : "NO_USER_CONV", address);
            };
            const auto add_case = [&](const char* what, const Code& code) {
                cases.push_back(over_values(name(what), flags, address, code));
            };
            add_case("to the program", {to_program(r2, r1)});
            add_case("to the program in place", {to_program(r1, r1), mov(r2, r1)});
            add_case("to the user", {to_program(r1, r1), to_user(r2, r1)});
            add_case("to the user in place", {to_program(r1, r1), to_user(r1, r1), mov(r2, r1)});
            add_case("to the user, of a sum", {to_program(r1, r1), add(r1, 1), to_user(r2, r1)});
            add_case("to the user, of a number", {to_user(r2, r1)});
            add_case("there and back", {to_program(r1, r1), to_user(r1, r1), to_program(r2, r1)});
            add_case("32-bit move of an arena pointer", {to_program(r1, r1), mov32(r2, r1)});
            add_case("through the stack",
                     {to_program(r1, r1), store(Size::dw, r10, -8, r1), load(Size::dw, r2, r10, -8)});
            // What the host would follow: stored in the arena, and read back.
            const Code page = join({alloc(address, 1), mov(r7, r0), to_program(r7, r7)});
            Code stored = page;
            for (std::size_t i = 0; i < k_values.size(); ++i) {
                const auto at = static_cast<std::int16_t>(16 * i);
                stored.push_back(load(Size::dw, r1, r9, static_cast<std::int16_t>(8 * i)));
                stored.push_back(to_program(r1, r1));
                stored.push_back(store(Size::dw, r7, at, r1));
                stored.push_back(to_user(r1, r1));
                stored.push_back(store(Size::dw, r7, static_cast<std::int16_t>(at + 8), r1));
            }
            Case one = make_case(name("stored in the arena"),
                                 builder({.address = address, .flags = k_flag_mmapable | flags}), stored);
            std::memcpy(one.context.data(), k_values.data(), sizeof k_values);
            cases.push_back(std::move(one));
            // Joins of both branches, through subprograms.
            auto made = builder({.address = address, .flags = k_flag_mmapable | flags});
            made.program("main", join({mov(r9, r1), load(Size::dw, r1, r9, 0), to_program(r1, r1), call_function(1),
                                       to_context(8, r0), to_user(r0, r0), to_context(9, r0), mov(r0, 0), exit()}));
            made.subprogram("pass", {mov(r0, r1), add(r0, 1), exit()});
            Case passed{.name = name("through a static function"), .file = made.build()};
            std::memcpy(passed.context.data(), &k_values[4], 8);
            cases.push_back(std::move(passed));
        }
    return cases;
}

}  // namespace harena::bpf::differential
