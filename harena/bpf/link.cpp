// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <limits>

#include <bpf/btf.h>

#include "harena/bpf/image.hpp"
#include "harena/bpf/validate.hpp"

namespace harena::bpf {

namespace {

std::string known_kfuncs() {
    std::string names;
    for (const Prototype& kfunc : kfunc_table()) names += fmt::format("{}{}", names.empty() ? "" : ", ", kfunc.name);
    return names;
}

class Linker {
public:
    explicit Linker(Image& image) : image_{image}, file_{*image.file} {}

    Result<void> run() {
        image_.code = file_.instructions;
        for (const Function& function : file_.functions) image_.void_functions.push_back(is_void(function));
        const std::vector<bool> reached = reachable_functions(file_);
        for (std::size_t i = 0; i < file_.functions.size(); ++i)
            if (reached[i]) HARENA_CHECK_OK(link_function(file_.functions[i]));
        return {};
    }

private:
    Result<void> link_function(const Function& function) {
        for (std::uint32_t at = function.begin; at < function.end; ++at) {
            Insn& insn = image_.code[at];
            const Reference* const reference = file_.reference_at(at);
            if (insn.code == k_code_ld_imm64) {
                HARENA_TRY(const Value value, reference == nullptr ? immediate(at) : constant(at, *reference));
                insn.imm = static_cast<std::int32_t>(image_.constants.size());
                image_.constants.push_back(value);
                ++at;
            } else if (insn.code == k_code_call && insn.src == static_cast<unsigned>(CallKind::kfunc)) {
                HARENA_TRY(const Prototype* const kfunc, kfunc_of(at, *reference));
                insn.imm = static_cast<std::int32_t>(image_.kfuncs.size());
                image_.kfuncs.push_back(kfunc);
            }
        }
        return {};
    }

    [[nodiscard]] bool is_void(const Function& function) const {
        const btf_type* const named = file_.btf == nullptr ? nullptr : file_.btf->type(function.btf_func);
        const btf_type* const type = named == nullptr || !btf_is_func(named) ? nullptr : file_.btf->type(named->type);
        return type != nullptr && btf_is_func_proto(type) && type->type == k_no_type;
    }

    Result<Value> immediate(std::uint32_t at) const {
        const auto low = static_cast<std::uint32_t>(file_.instructions[at].imm);
        const auto high = static_cast<std::uint32_t>(file_.instructions[at + 1].imm);
        return Value::scalar(std::uint64_t{high} << 32 | low);
    }

    Result<Value> constant(std::uint32_t at, const Reference& reference) const {
        switch (reference.kind) {
            case Reference::Kind::map: {
                auto* const map = image_.maps[reference.target].get();
                const auto address = reinterpret_cast<std::uint64_t>(map);
                return Value{address, {.kind = Kind::map, .base = address}};
            }
            case Reference::Kind::data:
                return data_address(at, reference);
            case Reference::Kind::function:
                return Value{file_.functions[reference.target].begin, {.kind = Kind::function}};
            case Reference::Kind::extern_address: {
                const Extern& wanted = file_.externs[reference.target];
                if (find_kfunc(wanted.name) != nullptr) return Value::scalar(1);  // there, and no address of the host
                if (wanted.weak) return Value::scalar(0);
                return fail(EINVAL, "{}: extern '{}' is not known to this engine", file_.describe_place(at),
                            wanted.name);
            }
            case Reference::Kind::extern_call:
                break;
        }
        return fail(EINVAL, "{}: ld_imm64 has the reference of a call", file_.describe_place(at));
    }

    Result<Value> data_address(std::uint32_t at, const Reference& reference) const {
        const DataSection& section = file_.data[reference.target];
        const DataMemory& memory = image_.data[reference.target];
        const auto base = reinterpret_cast<std::uint64_t>(memory.address);
        // The program gets a number where the arena is: it must cast before it can dereference.
        if (section.kind == DataSection::Kind::arena) return Value::scalar(base + reference.addend);
        if (reference.addend > memory.size)
            return fail(EINVAL, "{}: offset {} is outside section {} of {} bytes", file_.describe_place(at),
                        reference.addend, section.name, memory.size);
        Value pointer = Value::region(Kind::map_value, base, memory.size, memory.read_only);
        pointer.bits += reference.addend;
        return pointer;
    }

    Result<const Prototype*> kfunc_of(std::uint32_t at, const Reference& reference) const {
        const Extern& wanted = file_.externs[reference.target];
        const Prototype* const kfunc = find_kfunc(wanted.name);
        if (kfunc == nullptr && !wanted.weak)
            return fail(EINVAL, "{}: kfunc '{}' is not known to this engine, which has {}", file_.describe_place(at),
                        wanted.name, known_kfuncs());
        if (kfunc != nullptr && image_.arena == nullptr &&
            std::ranges::find(kfunc->arguments, ArgKind::arena_map) != kfunc->arguments.end())
            return fail(EINVAL, "{}: kfunc '{}' needs an arena, and the object has none", file_.describe_place(at),
                        wanted.name);
        return kfunc;
    }

    Image& image_;
    const ObjectFile& file_;
};

}  // namespace

Result<void> link(Image& image) { return Linker{image}.run(); }

}  // namespace harena::bpf
