// SPDX-License-Identifier: Apache-2.0
// Every kind and size of access: to pages that are there, absent, at the arena's and the window's edges, and
// straddling.
#include <array>

#include "tests/differential/build_case.hpp"

namespace harena::bpf::differential {

namespace {

using namespace test;

constexpr std::array k_sizes{Size::b, Size::h, Size::w, Size::dw};
constexpr std::int32_t k_fetch = k_atomic_fetch;

struct Access {
    std::string name;
    unsigned bytes;
    std::function<Insn(std::int16_t off)> make;  // pointer in r8, value in r7, result in r7 or r0
    bool is_atomic = false;
    bool fetches = false;
};

std::int32_t number(AluOp op) { return static_cast<std::int32_t>(op); }

std::vector<Access> accesses() {
    std::vector<Access> all;
    for (const Size size : k_sizes) {
        const unsigned bytes = bytes_of(size);
        all.push_back(
            {fmt::format("load {}", bytes), bytes, [=](std::int16_t off) { return load(size, r7, r8, off); }});
        all.push_back({fmt::format("load {} into its pointer", bytes), bytes,
                       [=](std::int16_t off) { return load(size, r8, r8, off); }});
        if (size != Size::dw)
            all.push_back({fmt::format("load {} sign-extended", bytes), bytes,
                           [=](std::int16_t off) { return load(size, r7, r8, off, Mode::memsx); }});
        all.push_back(
            {fmt::format("store {}", bytes), bytes, [=](std::int16_t off) { return store(size, r8, off, r7); }});
        all.push_back({fmt::format("store {} immediate", bytes), bytes,
                       [=](std::int16_t off) { return store(size, r8, off, -0x12345678); }});
        all.push_back({fmt::format("load-acquire {}", bytes), bytes,
                       [=](std::int16_t off) { return atomic(size, k_atomic_load_acquire, r7, off, r8); }, true});
        all.push_back({fmt::format("store-release {}", bytes), bytes,
                       [=](std::int16_t off) { return atomic(size, k_atomic_store_release, r8, off, r7); }, true});
    }
    for (const Size size : {Size::w, Size::dw})
        for (const auto& [name, operation, fetches] : {std::tuple{"add", number(AluOp::add), false},
                                                       {"or", number(AluOp::or_), false},
                                                       {"and", number(AluOp::and_), false},
                                                       {"xor", number(AluOp::xor_), false},
                                                       {"fetch add", number(AluOp::add) | k_fetch, true},
                                                       {"fetch or", number(AluOp::or_) | k_fetch, true},
                                                       {"fetch and", number(AluOp::and_) | k_fetch, true},
                                                       {"fetch xor", number(AluOp::xor_) | k_fetch, true},
                                                       {"xchg", k_atomic_xchg, true},
                                                       {"cmpxchg", k_atomic_cmpxchg, true}})
            all.push_back({fmt::format("atomic {} {}", name, bytes_of(size)), bytes_of(size),
                           [size, operation](std::int16_t off) { return atomic(size, operation, r8, off, r7); }, true,
                           fetches});
    return all;
}

/// Page 3 is there and filled, all others are absent. The access is at `address`, with pointer and offset as given; r0,
/// r7 and r8 go to the context.
Case at(const Access& access, const std::string& where, const ArenaPlace& place, std::uint64_t pointer,
        std::int16_t off, std::uint64_t r0_before = 0x1111'2222'3333'4444) {
    Code body = alloc(place.address + 3 * k_page_size, 1);
    body.push_back(to_program(r1, r0));
    for (int word = 0; word < 4; ++word) {
        load_imm64(body, r2, 0x8182'8384'8586'8788 + static_cast<std::uint64_t>(word));
        body.push_back(store(Size::dw, r1, static_cast<std::int16_t>(8 * word), r2));
        body.push_back(store(Size::dw, r1, static_cast<std::int16_t>(4096 - 8 * (word + 1)), r2));
    }
    load_imm64(body, r7, 0xf1f2'f3f4'f5f6'f7f8);
    load_imm64(body, r0, r0_before);
    load_imm64(body, r8, pointer);
    body.push_back(to_program(r8, r8));
    body.push_back(access.make(off));
    body.push_back(to_context(0, r0));
    body.push_back(to_context(1, r7));
    body.push_back(to_context(2, r8));
    return make_case(fmt::format("{}: {}", access.name, where), builder(place), body);
}

void add_places(std::vector<Case>& cases, const Access& access) {
    const ArenaPlace place;
    const std::uint64_t start = place.address;
    const auto page = [&](std::uint64_t n) { return start + n * k_page_size; };
    const auto add_case = [&](const char* where, std::uint64_t pointer, std::int16_t off) {
        cases.push_back(at(access, where, place, pointer, off));
    };
    add_case("present", page(3), 0);
    add_case("present, last bytes", page(3) + 4096 - access.bytes, 0);
    add_case("present, by an offset", page(3) + 32768, -32768);
    add_case("absent", page(5), 16);
    add_case("absent, by an offset", page(3), 4096);
    add_case("absent, below", page(3), -8);
    add_case("behind the arena", page(16), 0);
    add_case("the window's last bytes", 0xffff'ffff - access.bytes + 1, 0);
    add_case("below the window", 0, -8);
    add_case("far below the window", 0, -32768);
    add_case("above the window", 0xffff'fff8, 8);
    add_case("far above the window", 0xffff'fff8, 32760);
    cases.push_back(at(access, "cmpxchg that matches", place, page(3), 0,
                       access.bytes == 4 ? 0x1111'2222'8586'8788 : 0x8182'8384'8586'8788));
    if (access.bytes > 1 && !access.is_atomic) {
        add_case("straddling into an absent page", page(4) - 1, 0);
        add_case("straddling out of an absent page", page(3) - 1, 0);
        add_case("straddling absent pages", page(7) - 1, 0);
        add_case("unaligned", page(3) + 1, 0);
        add_case("straddling the window's end", 0xffff'ffff, 0);
    }
}

}  // namespace

std::vector<Case> access_cases() {
    std::vector<Case> cases;
    for (const Access& access : accesses()) add_places(cases, access);
    const ArenaPlace low_bits{.address = arena_address() + 0x1234'5000};
    const ArenaPlace end{.address = arena_address() + 4 * k_gib - 16 * k_page_size};
    const ArenaPlace segv{.flags = k_flag_mmapable | k_flag_segv_on_fault};
    const ArenaPlace no_conv{.flags = k_flag_mmapable | k_flag_no_user_conv};
    for (const Access& access : accesses()) {
        for (const auto& [place, flag] : {std::pair{segv, "SEGV_ON_FAULT"}, std::pair{no_conv, "NO_USER_CONV"}}) {
            cases.push_back(at(access, fmt::format("present, {}", flag), place, place.address + 3 * k_page_size, 0));
            cases.push_back(at(access, fmt::format("absent, {}", flag), place, place.address + 5 * k_page_size, 0));
        }
        cases.push_back(at(access, "present, low bits", low_bits, low_bits.address + 3 * k_page_size, 0));
        cases.push_back(at(access, "absent, low bits", low_bits, low_bits.address + 5 * k_page_size, 0));
        cases.push_back(at(access, "last page of the window", end, end.address + 16 * k_page_size - access.bytes, 0));
        cases.push_back(at(access, "behind the window's last page", end, end.address + 16 * k_page_size - 8, 8));
    }
    return cases;
}

}  // namespace harena::bpf::differential
