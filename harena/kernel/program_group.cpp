// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/program_group.hpp"

#include <algorithm>
#include <cerrno>
#include <string_view>

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
    for (const Member& member : members_) HARENA_CHECK_OK(find_code(member));
    std::ranges::sort(code_, {}, &os::BpfCode::address);
    std::ranges::sort(lines_, {}, &Line::address);
    return tap;
}

Result<void> ProgramGroup::find_code(const Member& member) {
    constexpr std::string_view k_what = "the machine code of a program";
    const auto function_count = os::bpf_jited_functions(member.fd, {});
    std::vector<os::BpfCode> code(function_count.value_or(0));
    const auto functions = os::bpf_jited_functions(member.fd, code);
    if (!functions) return os::fail_with(functions.error(), k_what);
    if (code.empty()) return fail(ENOTSUP, "the kernel has no machine code of a program");
    if (std::ranges::find(code, 0U, &os::BpfCode::address) != code.end())
        return fail(EPERM,
                    "Linux shows where a program's machine code is only with CAP_SYSLOG and kernel.kptr_restrict 0 or "
                    "1, or with kernel.kptr_restrict 0 and kernel.perf_event_paranoid 1 or less");
    code_.insert(code_.end(), code.begin(), code.end());

    const auto line_count = os::bpf_jited_lines(member.fd, {});
    std::vector<os::BpfJitedLine> lines(line_count.value_or(0));
    const auto read = os::bpf_jited_lines(member.fd, lines);
    if (!read) return os::fail_with(read.error(), k_what);
    // The kernel's records are some of those that it was given, in their order.
    auto given = member.lines.begin();
    for (const os::BpfJitedLine& line : lines) {
        given = std::find_if(given, member.lines.end(), [&](const bpf_line_info& one) {
            return one.line_off == line.line_off && one.line_col == line.line_col;
        });
        if (given == member.lines.end()) break;
        lines_.push_back({.address = line.address, .insn = member.origin[given->insn_off]});
        ++given;
    }
    return {};
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
