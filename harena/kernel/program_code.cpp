// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/program_code.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "harena/base/os/system_info.hpp"

namespace harena::kernel {

namespace {

using bpf::Insn;
using bpf::Reference;

// `src` of ld_imm64. Source: Linux, include/uapi/linux/bpf.h.
enum Pseudo : std::uint8_t { map_fd = 1, map_value = 2, btf_id = 3, function_address = 4 };

/// A helper that no kernel has: the verifier refuses the program if it can come to this call, and only then.
constexpr std::int32_t k_no_such_helper = 0x7fffff00;
// Source: Linux, include/linux/bpf_verifier.h, BPF_MAX_SUBPROGS.
constexpr std::size_t k_max_functions = 256;

constexpr std::uint32_t k_column_bits = 10;
constexpr std::uint32_t k_column_mask = (1U << k_column_bits) - 1;

/// Kfuncs that came later than what the engine needs anyway. Source: Linux, kernel/bpf.
struct Introduced {
    std::string_view kfunc;
    std::string_view version;
};
constexpr std::array k_introduced{
    Introduced{"bpf_rcu_read_lock", "6.2"},      Introduced{"bpf_rcu_read_unlock", "6.2"},
    Introduced{"bpf_iter_num_new", "6.4"},       Introduced{"bpf_iter_num_next", "6.4"},
    Introduced{"bpf_iter_num_destroy", "6.4"},   Introduced{"bpf_arena_alloc_pages", "6.9"},
    Introduced{"bpf_arena_free_pages", "6.9"},   Introduced{"bpf_preempt_disable", "6.10"},
    Introduced{"bpf_preempt_enable", "6.10"},    Introduced{"bpf_local_irq_save", "6.14"},
    Introduced{"bpf_local_irq_restore", "6.14"}, Introduced{"bpf_res_spin_lock", "6.15"},
    Introduced{"bpf_res_spin_unlock", "6.15"},   Introduced{"bpf_arena_reserve_pages", "6.17"},
};

Insn with_source(Insn insn, std::uint8_t src) noexcept {
    insn.src = src & 15;
    return insn;
}

class Assembler {
public:
    Assembler(const bpf::ObjectFile& file, const Targets& targets, const ObjectBtf& btf) noexcept
        : file_{file}, targets_{targets}, btf_{btf} {}

    Result<ProgramCode> run(const bpf::Function& program) {
        HARENA_CHECK_OK(collect(program));
        mention_arena(program);
        for (const bpf::Function* const function : functions_) append(*function);
        for (std::uint32_t at = mentioned_; at < code_.instructions.size(); at += width(at)) HARENA_CHECK_OK(link(at));
        add_records();
        return std::move(code_);
    }

private:
    [[nodiscard]] std::uint32_t width(std::uint32_t at) const noexcept {
        return code_.instructions[at].code == bpf::k_code_ld_imm64 ? 2 : 1;
    }

    // The functions that the program calls or takes the address of, itself first.
    Result<void> collect(const bpf::Function& program) {
        reach(&program);
        for (std::size_t next = 0; next < functions_.size(); ++next) {
            const bpf::Function& function = *functions_[next];
            if (functions_.size() > k_max_functions)
                return fail(E2BIG, "program '{}' consists of more than {} functions, which Linux does not take",
                            program.name, k_max_functions);
            for (std::uint32_t at = function.begin; at < function.end; ++at) {
                const Insn insn = file_.instructions[at];
                const Reference* const reference = file_.reference_at(at);
                if (insn.code == bpf::k_code_call && insn.src == std::to_underlying(bpf::CallKind::local))
                    reach(file_.function_at(static_cast<std::uint32_t>(std::int64_t{at} + 1 + insn.imm)));
                if (reference != nullptr && reference->kind == Reference::Kind::function)
                    reach(&file_.functions[reference->target]);
                if (reference != nullptr && reference->kind == Reference::Kind::map &&
                    reference->target == targets_.arena)
                    mentions_arena_ = true;
            }
        }
        return {};
    }
    void reach(const bpf::Function* function) {
        if (reached_.insert(function).second) functions_.push_back(function);
    }

    // The verifier has to know a program's arena before it casts a pointer: from its address, in any instruction.
    void mention_arena(const bpf::Function& program) {
        if (!targets_.arena || mentions_arena_) return;
        code_.instructions.push_back({.code = bpf::k_code_ld_imm64,
                                      .dst = 0,
                                      .src = Pseudo::map_fd,
                                      .off = 0,
                                      .imm = targets_.maps[*targets_.arena]});
        code_.instructions.push_back({});
        code_.origin.assign(2, program.begin);
        mentioned_ = 2;
    }

    void append(const bpf::Function& function) {
        const auto begin = static_cast<std::uint32_t>(code_.instructions.size());
        begins_.emplace(function.begin, begin);
        for (std::uint32_t at = function.begin; at < function.end; ++at) {
            code_.instructions.push_back(file_.instructions[at]);
            code_.origin.push_back(at);
        }
    }

    // Distance in a call or an address of a function at `at`, to the function that begins at `begin` in the object.
    [[nodiscard]] std::int32_t distance(std::uint32_t at, std::uint32_t begin) const {
        return static_cast<std::int32_t>(begins_.at(begin)) - static_cast<std::int32_t>(at) - 1;
    }

    Result<void> link(std::uint32_t at) {
        Insn& insn = code_.instructions[at];
        const std::uint32_t origin = code_.origin[at];
        const Reference* const reference = file_.reference_at(origin);
        if (insn.code == bpf::k_code_call && insn.src == std::to_underlying(bpf::CallKind::local))
            insn.imm = distance(at, static_cast<std::uint32_t>(std::int64_t{origin} + 1 + insn.imm));
        if (reference == nullptr) return {};
        if (reference->kind == Reference::Kind::extern_call) return link_kfunc(insn, origin, *reference);
        if (insn.code != bpf::k_code_ld_imm64)
            return fail(EINVAL, "{}: refers to something, and is no ld_imm64", file_.describe_place(origin));
        return link_load(at, *reference);
    }

    [[nodiscard]] std::unexpected<Error> missing(std::uint32_t origin, const bpf::Extern& wanted) const {
        const std::string_view version = wanted.is_function ? introduced_in(wanted.name) : std::string_view{};
        return fail(EINVAL, "{}: {} '{}' is not in this kernel{}", file_.describe_place(origin),
                    wanted.is_function ? "kfunc" : "variable", wanted.name,
                    version.empty()
                        ? std::string{}
                        : fmt::format(": it came with Linux {}, and this is {}", version, os::kernel_release()));
    }

    Result<void> link_kfunc(Insn& insn, std::uint32_t origin, const Reference& reference) {
        const bpf::Extern& wanted = file_.externs[reference.target];
        if (insn.code != bpf::k_code_call)
            return fail(EINVAL, "{}: refers to a call of '{}', and is none", file_.describe_place(origin), wanted.name);
        const std::uint32_t id = targets_.externs[reference.target];
        if (id == 0 && !wanted.weak) return missing(origin, wanted);
        insn = with_source(insn, id == 0 ? 0 : std::to_underlying(bpf::CallKind::kfunc));
        insn.imm = id == 0 ? k_no_such_helper : static_cast<std::int32_t>(id);
        return {};
    }

    Result<void> link_load(std::uint32_t at, const Reference& reference) {
        Insn& low = code_.instructions[at];
        Insn& high = code_.instructions[at + 1];
        const auto set = [&](std::uint8_t kind, std::uint64_t first, std::uint64_t second) {
            low = with_source(low, kind);
            low.imm = static_cast<std::int32_t>(first);
            high.imm = static_cast<std::int32_t>(second);
        };
        const auto set_number = [&](std::uint64_t number) { set(0, number, number >> 32); };
        switch (reference.kind) {
            case Reference::Kind::map:
                set(Pseudo::map_fd, static_cast<std::uint64_t>(targets_.maps[reference.target]), 0);
                break;
            case Reference::Kind::data:
                // An address in an arena is a number for the program, which casts it.
                if (file_.data[reference.target].kind == bpf::DataSection::Kind::arena)
                    set_number(targets_.addresses[reference.target] + reference.addend);
                else
                    set(Pseudo::map_value, static_cast<std::uint64_t>(targets_.data[reference.target]),
                        reference.addend);
                break;
            case Reference::Kind::function:
                set(Pseudo::function_address,
                    static_cast<std::uint64_t>(distance(at, file_.functions[reference.target].begin)), 0);
                break;
            case Reference::Kind::extern_address: {
                // A function's address is good for one question: whether it is there.
                const std::uint32_t id = targets_.externs[reference.target];
                if (id == 0 && !file_.externs[reference.target].weak)
                    return missing(code_.origin[at], file_.externs[reference.target]);
                if (id == 0 || file_.externs[reference.target].is_function)
                    set_number(id == 0 ? 0 : 1);
                else
                    set(Pseudo::btf_id, id, 0);
                break;
            }
            case Reference::Kind::extern_call:
                break;
        }
        return {};
    }

    // The kernel takes records of functions for all functions or for none, and a line for each function's begin.
    void add_records() {
        if (btf_.fd.get() < 0) return;
        const auto has_type = [](const bpf::Function* function) { return function->btf_func != bpf::k_no_type; };
        if (!std::ranges::all_of(functions_, has_type)) return;
        for (const bpf::Function* const function : functions_) {
            const std::uint32_t begin = begins_.at(function->begin);
            const std::uint32_t entry = function == functions_.front() ? 0 : begin;
            code_.functions.push_back({.insn_off = entry, .type_id = function->btf_func});
            // A record for each instruction, though most repeat the line before: by them, the kernel tells the address
            // of each instruction's machine code, and so which instruction faulted.
            for (std::uint32_t at = function->begin; at < function->end; at += width(begin + (at - function->begin)))
                code_.lines.push_back(line_record(at, at == function->begin ? entry : begin + (at - function->begin)));
        }
    }

    [[nodiscard]] bpf_line_info line_record(std::uint32_t origin, std::uint32_t at) const {
        const bpf::LineInfo* const line = file_.line_at(origin);
        const LineStrings& strings =
            line == nullptr ? btf_.no_line : btf_.lines[static_cast<std::size_t>(line - file_.lines.data())];
        return {.insn_off = at,
                .file_name_off = strings.file,
                .line_off = strings.text + std::min(at >> k_column_bits, k_text_blanks),
                .line_col = (line == nullptr ? 0 : line->line << k_column_bits) | (at & k_column_mask)};
    }

    const bpf::ObjectFile& file_;
    const Targets& targets_;
    const ObjectBtf& btf_;
    ProgramCode code_;
    std::vector<const bpf::Function*> functions_;
    std::unordered_set<const bpf::Function*> reached_;         // as `functions_`
    std::unordered_map<std::uint32_t, std::uint32_t> begins_;  // from the object's instructions to the program's
    bool mentions_arena_ = false;
    std::uint32_t mentioned_ = 0;
};

}  // namespace

std::string_view introduced_in(std::string_view kfunc) noexcept {
    const auto* const found = std::ranges::find(k_introduced, kfunc, &Introduced::kfunc);
    return found == k_introduced.end() ? std::string_view{} : found->version;
}

Result<ProgramCode> assemble(const bpf::ObjectFile& file, const bpf::Function& program, const Targets& targets,
                             const ObjectBtf& btf) {
    return Assembler{file, targets, btf}.run(program);
}

}  // namespace harena::kernel
