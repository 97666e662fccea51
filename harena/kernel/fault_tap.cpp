// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/fault_tap.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "harena/base/fork.hpp"
#include "harena/base/os/bpf.hpp"
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
Assembly recorder(int map, std::uint32_t process, std::uint32_t instruction_pointer) {
    Assembly a;
    a.mov(6, 1);
    a.call_helper(k_get_current_pid_tgid);
    a.mov(7, 0);
    a.shift_right_imm(0, 32);
    const std::size_t another_process = a.jump_if(JmpOp::jne, 0, static_cast<std::int32_t>(process));
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

/// Puts process and thread of the caller into its context of 8 bytes.
Assembly teller() {
    Assembly a;
    a.mov(6, 1);
    a.call_helper(k_get_current_pid_tgid);
    a.store(Size::dw, 6, 0, 0);
    a.mov_imm(0, 0);
    a.exit();
    return a;
}

Result<std::uint64_t> ask(int teller) {
    std::uint64_t thread = 0;
    const auto told = os::bpf_program_run(teller, std::as_writable_bytes(std::span{&thread, 1}));
    if (!told) return os::fail_with(told.error(), "which thread this is cannot be found out");
    return thread;
}

// The map is written by another processor at any time: each word is read once, and in the order of the calls.
std::uint64_t read_word(const std::uint64_t& word) noexcept { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }

const Memory& memory_at(const std::byte* address) noexcept { return *reinterpret_cast<const Memory*>(address); }

/// The tap of one process. A child after fork makes another: the parent's hears of the parent only.
struct OfProcess {
    ForkGuard fork_guard;
    std::once_flag once;
    std::optional<Result<std::unique_ptr<FaultTap>>> tap;  // complete after it
};
// Never freed: runs may end after static destructors, and a child must not close descriptors that it may have closed.
constinit std::atomic<OfProcess*> current{nullptr};

OfProcess& of_this_process() {
    OfProcess* mine = current.load(std::memory_order_acquire);
    if (mine != nullptr && !mine->fork_guard.owner_dead()) return *mine;
    auto made = std::make_unique<OfProcess>();
    if (current.compare_exchange_strong(mine, made.get(), std::memory_order_acq_rel)) return *made.release();
    return *mine;  // another thread was faster
}

}  // namespace

Result<const FaultTap*> FaultTap::get() {
    OfProcess& mine = of_this_process();
    std::call_once(mine.once, [&] { mine.tap.emplace(create()); });
    if (!*mine.tap) return pass_on(mine.tap->error());
    return (*mine.tap)->get();
}

Result<std::unique_ptr<FaultTap>> FaultTap::create() {
    HARENA_TRY(const KernelTypes* const types, KernelTypes::get());
    const auto instruction_pointer = types->member_offset("pt_regs", "ip");
    if (!instruction_pointer) return fail(ENOTSUP, "the kernel engine counts faults on x86-64 only");
    HARENA_TRY(os::FileDescriptor who, teller().load("harena_thread"));
    HARENA_TRY(const std::uint64_t self, ask(who.get()));
    const auto map = os::bpf_map_create({.type = bpf::map_type::array,
                                         .key_size = 4,
                                         .value_size = sizeof(Memory),
                                         .max_entries = 1,
                                         .flags = k_mmapable,
                                         .name = "harena_faults"});
    if (!map) return pass_on(refusal(map.error(), "the map for faults", ""));
    const auto process = static_cast<std::uint32_t>(self >> 32);
    HARENA_TRY(const os::FileDescriptor program,
               recorder(map->get(), process, *instruction_pointer).load_tracer("harena_faults"));
    auto memory = MapMemory::create(map->get(), 0, k_mapped_bytes);
    if (!memory) return pass_on(memory.error().in("the map for faults"));
    auto attached = os::bpf_attach_tracepoint(program.get(), k_tracepoint);
    if (!attached) return pass_on(refusal(attached.error(), fmt::format("to trace {}", k_tracepoint), ""));
    return std::unique_ptr<FaultTap>{new FaultTap{std::move(who), std::move(*attached), *std::move(memory)}};
}

Result<std::uint64_t> FaultTap::this_thread() const {
    struct Known {
        std::uint64_t generation;  // a child's thread has another number than the one it is a copy of
        std::uint64_t thread;
    };
    static thread_local std::optional<Known> known;
    if (!known || known->generation != fork_generation()) {
        HARENA_TRY(const std::uint64_t thread, ask(who_.get()));
        known = Known{.generation = fork_generation(), .thread = thread};
    }
    return known->thread;
}

std::uint64_t FaultTap::position() const noexcept { return read_word(memory_at(memory_.data()).count); }

FaultTap::Records FaultTap::since(std::uint64_t begin, std::uint64_t thread) const {
    Records records;
    const std::uint64_t end = position();
    const Memory& memory = memory_at(memory_.data());
    for (std::uint64_t number = end - begin > k_kept ? end - k_kept : begin; number < end; ++number) {
        const Slot& slot = memory.slots[number % k_kept];
        // That thread's own records are complete; those of others may be half made.
        if (read_word(slot.number) != number + 1) continue;
        const std::uint64_t whose = read_word(slot.thread);
        const Record record{.write = read_word(slot.write) != 0,
                            .address = read_word(slot.address),
                            .instruction = read_word(slot.instruction)};
        if (whose == thread && read_word(slot.number) == number + 1) records.records.push_back(record);
    }
    // A record is counted before it is written: until the count is so far, none of ours has been overwritten.
    records.complete = position() - begin <= k_kept;
    return records;
}

}  // namespace harena::kernel
