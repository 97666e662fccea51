// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/fault_tap.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "harena/base/os/bpf.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/os/system_info.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/map.hpp"
#include "harena/kernel/assembly.hpp"
#include "harena/kernel/kernel_types.hpp"
#include "harena/kernel/refusal.hpp"

namespace harena::kernel {

namespace {

using bpf::JmpOp;
using bpf::Size;

constexpr const char* k_tracepoint = "page_fault_kernel";
constexpr std::uint64_t k_kept = 16384;  // a power of two

/// One fault, in the map. `number` is written last: 1 + the fault's number in the process, so that a record that is
/// being overwritten is seen to be.
struct Slot {
    std::uint64_t number;
    std::uint64_t thread;  // process and thread, as bpf_get_current_pid_tgid gives them
    std::uint64_t write;
    std::uint64_t address;
    std::uint64_t instruction;
    std::uint64_t unused[3];
};
constexpr std::int32_t k_slot_shift = 6;
static_assert(sizeof(Slot) == 1U << k_slot_shift);

struct Memory {
    std::uint64_t count;
    std::uint64_t unused[7];
    Slot slots[k_kept];
};
constexpr std::uint64_t k_mapped_bytes = align_up(sizeof(Memory), k_page_size);

constexpr std::uint32_t k_mmapable = 1U << 10;
constexpr std::int32_t k_get_current_pid_tgid = 14;
constexpr std::int32_t k_probe_read_kernel = 113;
constexpr std::int32_t k_error_is_write = 2;  // x86: bit 1 of a page fault's error code

constexpr std::int16_t offset(std::size_t bytes) noexcept { return static_cast<std::int16_t>(bytes); }

// r1 of such a program points to the tracepoint's arguments: (unsigned long address, struct pt_regs*, unsigned long
// error).
Assembly recorder(int map, std::uint32_t instruction_pointer) {
    Assembly a;
    a.mov(6, 1);
    a.call_helper(k_get_current_pid_tgid);
    a.mov(7, 0);
    a.shift_right_imm(0, 32);
    const std::size_t another_process = a.jump_if(JmpOp::jne, 0, os::process_id());
    a.mov_imm(1, 0);
    a.store(Size::dw, 10, -8, 1);
    a.mov(1, 10);
    a.add_imm(1, -8);
    a.mov_imm(2, 8);
    a.load(Size::dw, 3, 6, 8);
    a.add_imm(3, static_cast<std::int32_t>(instruction_pointer));
    a.call_helper(k_probe_read_kernel);
    a.load_map_value(8, map);
    a.mov_imm(9, 1);
    a.fetch_add(8, offset(offsetof(Memory, count)), 9);
    a.mov(1, 9);
    a.and_imm(1, static_cast<std::int32_t>(k_kept - 1));
    a.shift_left_imm(1, k_slot_shift);
    a.add(8, 1);
    constexpr std::size_t base = offsetof(Memory, slots);
    a.mov_imm(2, 0);
    a.store(Size::dw, 8, offset(base + offsetof(Slot, number)), 2);
    a.store(Size::dw, 8, offset(base + offsetof(Slot, thread)), 7);
    a.load(Size::dw, 2, 6, 16);
    a.and_imm(2, k_error_is_write);
    a.store(Size::dw, 8, offset(base + offsetof(Slot, write)), 2);
    a.load(Size::dw, 2, 6, 0);
    a.store(Size::dw, 8, offset(base + offsetof(Slot, address)), 2);
    a.load(Size::dw, 2, 10, -8);
    a.store(Size::dw, 8, offset(base + offsetof(Slot, instruction)), 2);
    a.add_imm(9, 1);
    a.store(Size::dw, 8, offset(base + offsetof(Slot, number)), 9);
    a.land(another_process);
    a.mov_imm(0, 0);
    a.exit();
    return a;
}

// The map is written by another processor at any time: each word is read once.
std::uint64_t read_word(const std::uint64_t& word) noexcept { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }

const Memory& memory_at(const std::byte* address) noexcept { return *reinterpret_cast<const Memory*>(address); }

}  // namespace

Result<const FaultTap*> FaultTap::get() {
    static const Result<FaultTap*> tap =
        create();  // lives as long as the process: runs may end after static destructors
    if (!tap) return pass_on(tap.error());
    if ((*tap)->fork_guard_.owner_dead()) return fail(ENOTSUP, "the tap for faults is the parent's of this process");
    return *tap;
}

Result<FaultTap*> FaultTap::create() {
    HARENA_TRY(const KernelTypes* const types, KernelTypes::get());
    const auto instruction_pointer = types->member_offset("pt_regs", "ip");
    if (!instruction_pointer) return fail(ENOTSUP, "the kernel engine counts faults on x86-64 only");
    auto map = os::bpf_map_create({.type = bpf::map_type::array,
                                   .key_size = 4,
                                   .value_size = sizeof(Memory),
                                   .max_entries = 1,
                                   .flags = k_mmapable,
                                   .name = "harena_faults"});
    if (!map) return pass_on(refusal(map.error(), "the map for faults", ""));
    HARENA_TRY(os::FileDescriptor program, recorder(map->get(), *instruction_pointer).load_tracer("harena_faults"));
    const auto mapped = os::mmap(nullptr, k_mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map->get(), 0);
    if (!mapped) return os::fail_with(mapped.error(), "the map for faults cannot be mapped");
    (void)os::madvise(*mapped, k_mapped_bytes, MADV_DONTFORK);
    auto attached = os::bpf_attach_tracepoint(program.get(), k_tracepoint);
    if (!attached) {
        (void)os::munmap(*mapped, k_mapped_bytes);
        return pass_on(refusal(attached.error(), fmt::format("to trace {}", k_tracepoint), ""));
    }
    auto* const tap = new FaultTap;
    tap->map_ = std::move(*map);
    tap->program_ = std::move(program);
    tap->attached_ = std::move(*attached);
    tap->memory_ = static_cast<std::byte*>(*mapped);
    return tap;
}

std::uint64_t FaultTap::position() const noexcept { return read_word(memory_at(memory_).count); }

FaultTap::Records FaultTap::since(std::uint64_t begin) const {
    Records records;
    const std::uint64_t end = position();
    if (end == begin) return records;
    const Memory& memory = memory_at(memory_);
    const auto self = static_cast<std::uint64_t>(os::process_id()) << 32 | static_cast<std::uint32_t>(os::thread_id());
    std::uint64_t number = begin;
    if (end - begin > k_kept) {
        number = end - k_kept;
        records.complete = false;
    }
    for (; number < end; ++number) {
        const Slot& slot = memory.slots[number % k_kept];
        // This thread's own records are complete; those of others may be half made.
        const bool whole = read_word(slot.number) == number + 1;
        const Record record{.write = slot.write != 0, .address = slot.address, .instruction = slot.instruction};
        const std::uint64_t thread = slot.thread;
        if (!whole || read_word(slot.number) != number + 1) continue;
        if (thread == self) records.records.push_back(record);
    }
    return records;
}

}  // namespace harena::kernel
