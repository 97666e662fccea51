// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/arena_calls.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>

#include "harena/base/os/bpf.hpp"
#include "harena/base/os/system_info.hpp"
#include "harena/base/page_math.hpp"
#include "harena/kernel/assembly.hpp"
#include "harena/kernel/kernel_types.hpp"

namespace harena::kernel {

namespace {

using bpf::JmpOp;
using bpf::Size;

/// Context of the program that makes the calls.
struct Call {
    std::uint64_t operation;
    std::uint64_t address;
    std::uint64_t count;
    std::int64_t node;
    std::uint64_t result;
};

constexpr std::int16_t offset(std::size_t bytes) noexcept { return static_cast<std::int16_t>(bytes); }

constexpr std::uint64_t k_pages_a_look = 64;
/// Context of the program that looks at pages.
struct Look {
    std::uint64_t first_byte;   // offset in the 4 GiB that the kernel has for the arena
    std::uint64_t pages;        // at most `k_pages_a_look`
    std::uint64_t present;      // out: bit i is whether page i can be read
    std::uint64_t kernel_base;  // out: where the 4 GiB are
};

// Source: Linux, include/uapi/linux/bpf.h; kernel/bpf/arena.c: half of the guards is below the arena.
constexpr std::int32_t k_helper_probe_read_kernel = 113;
constexpr std::int32_t k_guard_bytes = 32768;

}  // namespace

Result<ArenaCalls> ArenaCalls::create(int map) {
    HARENA_TRY(const KernelTypes* const types, KernelTypes::get());
    const auto alloc = types->function("bpf_arena_alloc_pages");
    const auto free = types->function("bpf_arena_free_pages");
    const auto reserve = types->function("bpf_arena_reserve_pages");
    if (!alloc || !free) return fail(ENOTSUP, "arenas came with Linux 6.9, and this is {}", os::kernel_release());
    Assembly a;
    a.mov(6, 1);
    a.load(Size::dw, 7, 6, offset(offsetof(Call, operation)));
    a.load_map(1, map);
    a.load(Size::dw, 2, 6, offset(offsetof(Call, address)));
    a.load(Size::w, 3, 6, offset(offsetof(Call, count)));
    a.load(Size::w, 4, 6, offset(offsetof(Call, node)));
    a.mov_imm(5, 0);
    const std::size_t to_free = a.jump_if(JmpOp::jeq, 7, static_cast<std::int32_t>(Operation::free));
    const std::size_t to_reserve = a.jump_if(JmpOp::jeq, 7, static_cast<std::int32_t>(Operation::reserve));
    a.call_kfunc(*alloc);
    const std::size_t alloc_done = a.jump();
    a.land(to_free);
    a.call_kfunc(*free);
    a.mov_imm(0, 0);
    const std::size_t free_done = a.jump();
    a.land(to_reserve);
    if (reserve)
        a.call_kfunc(*reserve);
    else
        a.mov_imm(0, 0);
    a.land(alloc_done);
    a.land(free_done);
    a.store(Size::dw, 6, offset(offsetof(Call, result)), 0);
    a.mov_imm(0, 0);
    a.exit();
    HARENA_TRY(os::FileDescriptor program, a.load("harena_calls"));
    return ArenaCalls{std::move(program), reserve.has_value()};
}

Result<std::uint64_t> ArenaCalls::call(Operation operation, std::uint64_t address, std::uint32_t count,
                                       int node) const {
    Call context{.operation = static_cast<std::uint64_t>(operation),
                 .address = address,
                 .count = count,
                 .node = node,
                 .result = 0};
    const auto ran = os::bpf_program_run(program_.get(), std::as_writable_bytes(std::span{&context, 1}));
    if (!ran) return os::fail_with(ran.error(), "a call on the kernel's arena");
    return context.result;
}

Result<std::uint64_t> ArenaCalls::alloc_pages(std::uint64_t address, std::uint32_t count, int node) const {
    return call(Operation::alloc, address, count, node);
}

Result<void> ArenaCalls::free_pages(std::uint64_t address, std::uint32_t count) const {
    HARENA_CHECK_OK(call(Operation::free, address, count, -1));
    return {};
}

Result<std::int32_t> ArenaCalls::reserve_pages(std::uint64_t address, std::uint32_t count) const {
    if (!has_reserve_)
        return fail(ENOTSUP, "reserving arena pages came with Linux 6.17, and this is {}", os::kernel_release());
    HARENA_TRY(const std::uint64_t result, call(Operation::reserve, address, count, -1));
    return static_cast<std::int32_t>(result);
}

Result<PresenceProbe> PresenceProbe::create(int map) {
    HARENA_TRY(const KernelTypes* const types, KernelTypes::get());
    const auto memory = types->member_offset("bpf_arena", "kern_vm");
    const auto address = types->member_offset("vm_struct", "addr");
    if (!memory || !address)
        return fail(ENOTSUP, "the arenas of Linux {} are not built as those that harena can look into",
                    os::kernel_release());
    Assembly a;
    a.mov(6, 1);
    a.load_map(1, map);
    a.load(Size::dw, 1, 1, static_cast<std::int16_t>(*memory));
    a.load(Size::dw, 7, 1, static_cast<std::int16_t>(*address));
    a.add_imm(7, k_guard_bytes);
    a.store(Size::dw, 6, offset(offsetof(Look, kernel_base)), 7);
    a.load(Size::dw, 1, 6, offset(offsetof(Look, first_byte)));
    a.add(7, 1);
    // From the last page to the first, each result at the low end. The verifier does not know how many rounds there
    // are, and with a may_goto looks at one.
    a.load(Size::dw, 8, 6, offset(offsetof(Look, pages)));
    a.mov(1, 8);
    a.shift_left_imm(1, k_page_shift);
    a.add(7, 1);
    a.mov_imm(9, 0);
    const std::size_t loop = a.here();
    const std::size_t out_of_time = a.may_goto();
    const std::size_t done = a.jump_if(JmpOp::jeq, 8, 0);
    a.add_imm(8, -1);
    a.add_imm(7, -static_cast<std::int32_t>(k_page_size));
    a.mov(1, 10);
    a.add_imm(1, -8);
    a.mov_imm(2, 1);
    a.mov(3, 7);
    a.call_helper(k_helper_probe_read_kernel);
    a.shift_left_imm(9, 1);
    const std::size_t absent = a.jump_if(JmpOp::jne, 0, 0);
    a.add_imm(9, 1);
    a.land(absent);
    a.jump_back(loop);
    a.land(out_of_time);
    a.land(done);
    a.store(Size::dw, 6, offset(offsetof(Look, present)), 9);
    a.mov(0, 8);
    a.exit();
    HARENA_TRY(os::FileDescriptor program, a.load("harena_presence"));
    return PresenceProbe{std::move(program)};
}

Result<std::vector<bool>> PresenceProbe::present(std::uint64_t user_vm_start, PageRange pages) const {
    std::vector<bool> found;
    found.reserve(pages.count().value());
    const std::uint64_t low = user_vm_start & 0xffff'ffffU;
    while (found.size() < pages.count().value()) {
        const std::uint64_t left = pages.count().value() - found.size();
        Look look{.first_byte = low + byte_offset(pages.begin) + found.size() * k_page_size,
                  .pages = std::min(left, k_pages_a_look),
                  .present = 0,
                  .kernel_base = 0};
        const auto ran = os::bpf_program_run(program_.get(), std::as_writable_bytes(std::span{&look, 1}));
        if (!ran) return os::fail_with(ran.error(), "a look at the pages of the kernel's arena");
        if (*ran != 0) continue;  // this thread was away for the 250 ms of a may_goto
        for (std::uint64_t i = 0; i < look.pages; ++i) found.push_back((look.present >> i & 1) != 0);
    }
    return found;
}

Result<std::uint64_t> PresenceProbe::kernel_base() const {
    Look look{};
    const auto ran = os::bpf_program_run(program_.get(), std::as_writable_bytes(std::span{&look, 1}));
    if (!ran) return os::fail_with(ran.error(), "a look at the kernel's arena");
    return look.kernel_base;
}

}  // namespace harena::kernel
