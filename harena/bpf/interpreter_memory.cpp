// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "harena/arena/nofault.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/alu.hpp"
#include "harena/bpf/interpreter.hpp"

namespace harena::bpf {

namespace {

// The operation of an atomic that is neither a compare-exchange nor a plain load or store.
nofault::Atomic operation_of(std::int32_t imm) noexcept {
    if (imm == k_atomic_xchg) return nofault::Atomic::exchange;
    const bool fetches = (imm & k_atomic_fetch) != 0;
    switch (static_cast<AluOp>(imm & 0xf0)) {
        case AluOp::or_:
            return fetches ? nofault::Atomic::fetch_or : nofault::Atomic::or_;
        case AluOp::and_:
            return fetches ? nofault::Atomic::fetch_and : nofault::Atomic::and_;
        case AluOp::xor_:
            return fetches ? nofault::Atomic::fetch_xor : nofault::Atomic::xor_;
        default:
            return fetches ? nofault::Atomic::fetch_add : nofault::Atomic::add;
    }
}

constexpr nofault::Access k_faulted{.value = 0, .faulted = 1};

}  // namespace

std::uint64_t Interpreter::locate(const Value& pointer, std::int64_t offset, std::uint64_t bytes, bool write,
                                  unsigned reg) const {
    const Tag& region = pointer.tag;
    if (!is_region(region.kind)) {
        const bool null = region.kind == Kind::scalar && pointer.bits == 0;
        stop(EACCES, "R{} invalid mem access '{}'{}", reg, name_of(region.kind),
             null ? ": a NULL pointer (test what a look-up returns before use)"
             : region.kind == Kind::scalar
                 ? ": a number is no pointer; a user pointer must be cast to the arena first (__arena)"
                 : "");
    }
    // Unsigned: a pointer before its region is far behind it.
    const std::uint64_t at = pointer.bits + static_cast<std::uint64_t>(offset) - region.base;
    if (at > region.size || bytes > region.size - at)
        stop(EFAULT, "R{} invalid access to {}: offset {} size {} is outside its {} bytes", reg,
             region.kind == Kind::stack     ? "stack"
             : region.kind == Kind::context ? "context"
                                            : "map value",
             static_cast<std::int64_t>(at), bytes, region.size);
    if (write && region.read_only) stop(EACCES, "R{} cannot write into {}: it is read-only", reg, name_of(region.kind));
    return region.base + at;
}

std::uint64_t Interpreter::arena_address(const Value& pointer, std::int16_t offset) const {
    // There is an arena: only a cast makes arena pointers, and it checks. With any 32 bits and any offset this stays
    // inside the window and its guards.
    const auto window = reinterpret_cast<std::uint64_t>(image_->arena->window());
    return window + static_cast<std::uint32_t>(pointer.bits) + static_cast<std::uint64_t>(std::int64_t{offset});
}

bool Interpreter::has_memory(const Value& pointer, std::int16_t offset, unsigned size) const {
    ProcessArena& arena = *image_->arena;
    return arena.watched() || arena.has_memory(static_cast<std::uint32_t>(pointer.bits) + std::int64_t{offset}, size);
}

void Interpreter::record_fault(Fault::Access access, const Value& pointer, std::int16_t offset) {
    const std::uint64_t high = image_->arena->user_vm_start().value() >> 32 << 32;
    const std::uint64_t address =
        high + static_cast<std::uint32_t>(pointer.bits) + static_cast<std::uint64_t>(std::int64_t{offset});
    ++fault_count_;
    image_->arena->count_program_fault();
    if (faults_.size() == FaultLog::k_kept) faults_.pop_front();
    faults_.push_back({.image = image_, .insn = pc_, .access = access, .address = address});
    safepoint();
}

std::vector<Fault> Interpreter::take_faults() const {
    std::vector<Fault> faults;
    faults.reserve(faults_.size());
    for (const RecordedFault& fault : faults_) {
        const ObjectFile& file = *fault.image->file;
        const Function& function = *file.function_at(fault.insn);
        faults.push_back({.access = fault.access,
                          .address = UserAddress{fault.address},
                          .function = function.name,
                          .insn = fault.insn - function.begin,
                          .place = file.describe_place(fault.insn)});
    }
    return faults;
}

Value Interpreter::load_from(const Value& pointer, std::int16_t offset, unsigned size, unsigned reg) {
    if (pointer.kind() == Kind::arena) {
        const auto loaded =
            has_memory(pointer, offset, size) ? nofault::load(arena_address(pointer, offset), size) : k_faulted;
        if (loaded.faulted != 0) record_fault(Fault::Access::read, pointer, offset);
        return Value::scalar(loaded.value);
    }
    const std::uint64_t address = locate(pointer, offset, size, false, reg);
    if (pointer.kind() == Kind::stack) return stack_.load(address, size);
    const auto loaded = nofault::load(address, size);
    if (loaded.faulted != 0)
        stop(EFAULT, "R{} points into a {} whose memory the host took away", reg, name_of(pointer.kind()));
    return Value::scalar(loaded.value);
}

void Interpreter::store_to(const Value& pointer, std::int16_t offset, unsigned size, const Value& value, unsigned reg) {
    if (pointer.kind() == Kind::stack) {
        stack_.store(locate(pointer, offset, size, true, reg), size, value);
        return;
    }
    if (!is_public(value.kind()))
        stop(EACCES, "a pointer (kind {}) is stored into {}: it would leak an address of the host",
             name_of(value.kind()), name_of(pointer.kind()));
    if (pointer.kind() == Kind::arena) {
        const auto stored = has_memory(pointer, offset, size)
                                ? nofault::store(arena_address(pointer, offset), size, value.bits)
                                : k_faulted;
        if (stored.faulted != 0) record_fault(Fault::Access::write, pointer, offset);
        return;
    }
    if (nofault::store(locate(pointer, offset, size, true, reg), size, value.bits).faulted != 0)
        stop(EFAULT, "R{} points into a {} whose memory the host took away", reg, name_of(pointer.kind()));
}

void Interpreter::load(Insn insn) {
    const unsigned size = bytes_of(size_of(insn));
    Value value = load_from(read(insn.src), insn.off, size, insn.src);
    if (mode_of(insn) == Mode::memsx) {
        // A whole slot is 8 bytes, which has no sign extension: this is a number.
        value.bits = alu::sign_extend(value.bits, size * 8);
    }
    registers_[insn.dst] = value;
}

void Interpreter::store(Insn insn) {
    const Value value = class_of(insn) == Class::stx
                            ? read(insn.src)
                            : Value::scalar(static_cast<std::uint64_t>(std::int64_t{insn.imm}));
    store_to(read(insn.dst), insn.off, bytes_of(size_of(insn)), value, insn.dst);
}

void Interpreter::atomic(Insn insn) {
    const unsigned size = bytes_of(size_of(insn));
    if (insn.imm == k_atomic_load_acquire) {
        const Value pointer = read(insn.src);
        if (pointer.kind() == Kind::context)
            stop(EACCES, "BPF_ATOMIC loads from R{} ctx is not allowed", unsigned{insn.src});
        check_aligned(pointer, insn.off, size, insn.src);
        registers_[insn.dst] = load_from(pointer, insn.off, size, insn.src);
        return;
    }
    // Copies: the result may go to the register of either.
    const Value pointer = read(insn.dst);
    const Value source = read(insn.src);
    if (pointer.kind() == Kind::context)
        stop(EACCES, "BPF_ATOMIC stores into R{} ctx is not allowed", unsigned{insn.dst});
    check_aligned(pointer, insn.off, size, insn.dst);
    if (insn.imm == k_atomic_store_release) return store_to(pointer, insn.off, size, source, insn.dst);
    if (!is_public(source.kind()))
        stop(EACCES, "R{} leaks addr into mem: a pointer (kind {}) in an atomic instruction", unsigned{insn.src},
             name_of(source.kind()));
    read_modify_write(insn, pointer, source);
}

void Interpreter::check_aligned(const Value& pointer, std::int16_t offset, unsigned size, unsigned reg) const {
    if (!is_aligned(pointer.bits + static_cast<std::uint64_t>(std::int64_t{offset}), size))
        stop(EFAULT, "R{} misaligned atomic access of {} bytes (offset {})", reg, size, offset);
}

void Interpreter::read_modify_write(Insn insn, const Value& pointer, const Value& source) {
    const unsigned size = bytes_of(size_of(insn));
    const bool compares = insn.imm == k_atomic_cmpxchg;
    const bool fetches = (insn.imm & k_atomic_fetch) != 0;
    if (compares && !is_public(read(0).kind()))
        stop(EACCES, "R0 of cmpxchg is a pointer (kind {})", name_of(registers_[0].kind()));

    std::uint64_t address = 0;
    if (pointer.kind() == Kind::arena) {
        address = arena_address(pointer, insn.off);
    } else {
        address = locate(pointer, insn.off, size, true, insn.dst);
        if (pointer.kind() == Kind::stack) stack_.check_plain(address, size);
    }
    const bool absent = pointer.kind() == Kind::arena && !has_memory(pointer, insn.off, size);
    const nofault::Access result = absent ? k_faulted
                                   : compares
                                       ? nofault::compare_exchange(address, size, registers_[0].bits, source.bits)
                                       : nofault::atomic(operation_of(insn.imm), address, size, source.bits);
    if (compares) {
        registers_[0] = Value::scalar(result.value);
    } else if (fetches) {
        registers_[insn.src] = Value::scalar(result.value);
    }
    if (result.faulted == 0) return;
    if (pointer.kind() != Kind::arena)
        stop(EFAULT, "R{} points into a {} whose memory the host took away", unsigned{insn.dst},
             name_of(pointer.kind()));
    record_fault(Fault::Access::write, pointer, insn.off);
}

}  // namespace harena::bpf
