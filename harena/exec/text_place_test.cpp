// SPDX-License-Identifier: Apache-2.0
// Where text is: near the program, beside sealed data, in lists of areas.
#include <cerrno>
#include <cstring>
#include <string>

#include "harena/base/os/inspect.hpp"
#include "harena/exec/test_support.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {
namespace {

using test::ok;
using test::refused;
using test::run;

std::int64_t distance(const void* from, const void* to) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uint64_t>(to) - reinterpret_cast<std::uint64_t>(from));
}

TEST(TextPlace, text_is_an_area_marked_exec_with_its_pages) {
    const auto space = TextSpace::create({.name = "my jit"}).value();
    (void)space->text_alloc(16).value();
    VmSpace* const process = VmSpace::process().value();
    const std::string info = process->vmallocinfo().value();
    const auto at = info.find("[my jit]");
    ASSERT_NE(at, std::string::npos) << info;
    const std::string line = info.substr(at, info.find('\n', at) - at);
    EXPECT_NE(line.find("exec"), std::string::npos) << line;
    EXPECT_NE(line.find("pages=512"), std::string::npos) << line;
    EXPECT_NE(info.find("text_place_test.cpp"), std::string::npos) << "who asked";
    EXPECT_TRUE(process->find_vm_area(space->base())->exec);
}

TEST(TextPlace, addresses_are_free_again_afterwards) {
    std::byte* base = nullptr;
    {
        const auto space = TextSpace::create().value();
        base = space->base();
        (void)space->text_alloc(16).value();
    }
    EXPECT_FALSE(test::readable(base));
    EXPECT_FALSE(VmSpace::process().value()->find_vm_area(base));
    EXPECT_EQ(test::count_mappings("harena:text"), 0U);
}

/// A function of the program that text calls.
extern "C" [[gnu::noinline, gnu::used]] std::uint32_t harena_test_answer();
extern "C" std::uint32_t harena_test_answer() { return 4242; }

TEST(TextPlace, text_near_the_program_calls_it_with_32_bits) {
    const auto space = TextSpace::create({.max_bytes = 16 * k_mib, .near_program = true});
    if (!space && space.error().code() == EADDRNOTAVAIL) GTEST_SKIP() << space.error().message();
    ASSERT_TRUE(ok(space));
    const os::AddressRange program = os::program_text();
    constexpr std::int64_t k_reach = std::int64_t{1} << 31;
    for (const std::byte* const end : {(*space)->base(), (*space)->base() + (*space)->bytes()}) {
        EXPECT_LT(std::abs(distance(end, reinterpret_cast<void*>(program.begin))), k_reach);
        EXPECT_LT(std::abs(distance(end, reinterpret_cast<void*>(program.end))), k_reach);
    }
    // sub rsp, 8; call rel32; add rsp, 8; ret
    std::array<std::byte, 14> code{std::byte{0x48}, std::byte{0x83}, std::byte{0xec}, std::byte{8},   std::byte{0xe8},
                                   std::byte{0},    std::byte{0},    std::byte{0},    std::byte{0},   std::byte{0x48},
                                   std::byte{0x83}, std::byte{0xc4}, std::byte{8},    std::byte{0xc3}};
    void* const text = (*space)->text_alloc(code.size()).value();
    const auto displacement =
        static_cast<std::int32_t>(distance(test::plus(text, 9), reinterpret_cast<void*>(&harena_test_answer)));
    std::memcpy(&code[5], &displacement, sizeof displacement);
    ASSERT_TRUE(ok((*space)->text_poke(text, code)));
    EXPECT_EQ(run(text), 4242U);
}

TEST(TextPlace, no_room_near_the_program_is_an_error_that_says_so) {
    const auto space = TextSpace::create({.max_bytes = 2 * k_gib, .near_program = true});
    EXPECT_TRUE(refused(space, EADDRNOTAVAIL, "within 2 GiB"));
}

TEST(TextPlace, text_reaches_sealed_data_of_its_space) {
    const auto pool = PagePool::create({.capacity = PageCount{1024}}).value();
    const auto data = VmSpace::create({.bytes = k_gib, .pool = pool.get()}).value();
    {
        const auto space = TextSpace::create({.max_bytes = 16 * k_mib, .space = data.get()}).value();
        const std::array<std::byte, 4> number{std::byte{0x78}, std::byte{0x56}, std::byte{0x34}, std::byte{0x12}};
        const void* const sealed = data->vmalloc_sealed(number).value();
        // mov eax, [rip + displacement]; ret
        std::array<std::byte, 7> code{std::byte{0x8b}, std::byte{0x05}, {}, {}, {}, {}, std::byte{0xc3}};
        void* const text = space->text_alloc(code.size()).value();
        const std::int64_t displacement = distance(test::plus(text, 6), sealed);
        ASSERT_LT(std::abs(displacement), std::int64_t{1} << 31);
        std::memcpy(&code[2], &displacement, 4);
        ASSERT_TRUE(ok(space->text_poke(text, code)));
        EXPECT_EQ(run(text), 0x12345678U);
        EXPECT_TRUE(data->find_vm_area(text)->exec);
        EXPECT_TRUE(ok(data->vfree(sealed)));
    }
    EXPECT_EQ(data->statistics().areas, 0U);
    EXPECT_EQ(data->statistics().largest_free_bytes, data->bytes());
    EXPECT_FALSE(test::readable(data->base()));
}

TEST(TextPlace, spaces_that_text_could_not_reach_all_of_are_refused) {
    const auto large = VmSpace::create({.bytes = 4 * k_gib}).value();
    EXPECT_TRUE(refused(TextSpace::create({.space = large.get()}), EINVAL, "reaches"));
    const auto small = VmSpace::create({.bytes = 4 * k_mib}).value();
    EXPECT_TRUE(refused(TextSpace::create({.max_bytes = 4 * k_mib, .space = small.get()}), ENOMEM, "area"));
    EXPECT_TRUE(refused(TextSpace::create({.near_program = true, .space = small.get()}), EINVAL, "either"));
    EXPECT_EQ(small->statistics().areas, 0U);
}

}  // namespace
}  // namespace harena
