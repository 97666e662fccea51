// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/program_group.hpp"

#include <algorithm>
#include <cerrno>

#include "harena/kernel/program_code.hpp"

namespace harena::kernel {

namespace {

constexpr std::uint64_t k_low_half = 0xffff'ffff;
/// From user pointer 0: a pointer has 32 bits, an offset 16 bits and a sign, an access 8 bytes.
constexpr std::int64_t k_lowest_access = -32768;
constexpr std::int64_t k_highest_access = static_cast<std::int64_t>(k_low_half) + 32767 + 7;

}  // namespace

Result<const FaultTap*> ProgramGroup::tap() {
    if (arena_ == nullptr) return nullptr;
    std::call_once(once_, [this] { tap_.emplace(find_code()); });
    return *tap_;
}

Result<const FaultTap*> ProgramGroup::find_code() {
    HARENA_TRY(const FaultTap* const tap, FaultTap::get());
    HARENA_TRY(kernel_base_, arena_->kernel_base());
    for (const Member& member : members_) {
        const auto function_count = os::bpf_jited_functions(member.fd, {});
        std::vector<os::BpfCode> code(function_count.value_or(0));
        const auto functions = os::bpf_jited_functions(member.fd, code);
        if (!functions) return os::fail_with(functions.error(), "the machine code of a program");
        code_.insert(code_.end(), code.begin(), code.end());

        const auto line_count = os::bpf_jited_lines(member.fd, {});
        std::vector<os::BpfJitedLine> lines(line_count.value_or(0));
        const auto read = os::bpf_jited_lines(member.fd, lines);
        if (!read) return os::fail_with(read.error(), "the machine code of a program");
        // Columns are the low bits of the indices, which ascend.
        std::uint32_t next = 0;
        for (const os::BpfJitedLine& line : lines) {
            next += (line.line_col - next) & ((1U << k_column_bits) - 1);
            if (next < member.origin.size()) lines_.push_back({.address = line.address, .insn = member.origin[next]});
            ++next;
        }
    }
    std::ranges::sort(code_, {}, &os::BpfCode::address);
    std::ranges::sort(lines_, {}, &Line::address);
    return tap;
}

std::optional<bpf::Fault> ProgramGroup::fault(const FaultTap::Record& record) const {
    const auto behind = std::ranges::upper_bound(code_, record.instruction, {}, &os::BpfCode::address);
    if (behind == code_.begin()) return std::nullopt;
    const os::BpfCode& code = *std::prev(behind);
    const auto offset = static_cast<std::int64_t>(record.address - kernel_base_);
    if (record.instruction - code.address >= code.bytes || offset < k_lowest_access || offset > k_highest_access)
        return std::nullopt;
    bpf::Fault fault;
    fault.access = record.write ? bpf::Fault::Access::write : bpf::Fault::Access::read;
    fault.address = UserAddress{(arena_->user_vm_start().value() & ~k_low_half) + static_cast<std::uint64_t>(offset)};
    // There is a record for each instruction, if the object has line information.
    const auto after = std::ranges::upper_bound(lines_, record.instruction, {}, &Line::address);
    if (after == lines_.begin() || std::prev(after)->address < code.address) {
        fault.place = "a program without line information";
        return fault;
    }
    const std::uint32_t insn = std::prev(after)->insn;
    fault.place = file_->describe_place(insn);
    if (const bpf::Function* const function = file_->function_at(insn)) {
        fault.function = function->name;
        fault.insn = insn - function->begin;
    }
    return fault;
}

}  // namespace harena::kernel
