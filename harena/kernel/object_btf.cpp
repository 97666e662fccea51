// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/object_btf.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include <bpf/btf.h>

#include "harena/base/os/bpf.hpp"
#include "harena/base/page_math.hpp"
#include "harena/kernel/refusal.hpp"
#include "harena/kernel/verifier_log.hpp"

namespace harena::kernel {

namespace {

constexpr std::size_t k_log_bytes = std::size_t{64} << 10;
constexpr std::uint32_t k_extern_bytes = 4;  // what stands for an extern in its section is an int

struct FreeBtf {
    void operator()(btf* types) const noexcept { btf__free(types); }
};
using BtfPointer = std::unique_ptr<btf, FreeBtf>;

std::uint32_t info(std::uint32_t kind, std::uint32_t vlen) noexcept { return kind << 24 | vlen; }

/// Changes a copy of an object's BTF.
class Fixer {
public:
    Fixer(const bpf::ObjectFile& file, btf* types) noexcept : file_{file}, btf_{types} {}

    Result<void> run(ObjectBtf& out) {
        // Adding moves what is there: it comes first.
        HARENA_CHECK_OK(add_stand_in());
        const std::string blanks(k_text_blanks, ' ');
        HARENA_TRY(out.no_line.text, add_string(blanks));
        for (const bpf::LineInfo& line : file_.lines) {
            HARENA_TRY(const std::uint32_t file_name, add_string(line.file));
            HARENA_TRY(const std::uint32_t text, add_string(blanks + line.text));
            out.lines.push_back({.file = file_name, .text = text});
        }
        out.sized_data.resize(file_.data.size());
        for (std::uint32_t id = 1; id < btf__type_cnt(btf_); ++id) fix(*type(id), out);
        hide_functions();
        return {};
    }

private:
    [[nodiscard]] btf_type* type(std::uint32_t id) noexcept {
        return const_cast<btf_type*>(btf__type_by_id(btf_, id));  // our own copy
    }
    [[nodiscard]] std::string_view name_of(const btf_type& of) const noexcept {
        const char* const name = btf__name_by_offset(btf_, of.name_off);
        return name == nullptr ? "" : name;
    }

    Result<std::uint32_t> add_string(const std::string& text) {
        const int offset = btf__add_str(btf_, text.c_str());
        if (offset < 0) return fail(-offset, "no memory for the object's types");
        return static_cast<std::uint32_t>(offset);
    }

    // An int, a variable of it that stands for what is in the kernel, and a name for parameters without one.
    Result<void> add_stand_in() {
        const std::int32_t found = btf__find_by_name_kind(btf_, "int", BTF_KIND_INT);
        int_ = found > 0 ? found : btf__add_int(btf_, "int", 4, BTF_INT_SIGNED);
        stand_in_ = int_ < 0 ? int_ : btf__add_var(btf_, "harena_extern", BTF_VAR_GLOBAL_ALLOCATED, int_);
        if (stand_in_ < 0) return fail(-stand_in_, "no memory for the object's types");
        HARENA_TRY(parameter_name_, add_string("argument"));
        return {};
    }

    void fix(btf_type& of, ObjectBtf& out) {
        switch (btf_kind(&of)) {
            case BTF_KIND_FUNC:
                if (btf_vlen(&of) == BTF_FUNC_EXTERN) of.info = info(BTF_KIND_FUNC, BTF_FUNC_GLOBAL);
                break;
            case BTF_KIND_FUNC_PROTO:
                // The kernel wants names of the parameters of every FUNC. `...` is a parameter without type, and name.
                for (btf_param& parameter : std::span{btf_params(&of), btf_vlen(&of)})
                    if (parameter.name_off == 0 && parameter.type != 0) parameter.name_off = parameter_name_;
                break;
            case BTF_KIND_VAR:
                if (btf_var(&of)->linkage == BTF_VAR_GLOBAL_EXTERN) btf_var(&of)->linkage = BTF_VAR_GLOBAL_ALLOCATED;
                break;
            case BTF_KIND_DATASEC:
                if (name_of(of) == ".ksyms")
                    place_externs(of);
                else
                    place_variables(of, out);
                break;
            default:
                break;
        }
    }

    void place_externs(btf_type& section) {
        std::uint32_t offset = 0;
        for (btf_var_secinfo& entry : std::span{btf_var_secinfos(&section), btf_vlen(&section)}) {
            btf_type* const named = type(entry.type);
            if (btf_is_var(named))
                named->type = static_cast<std::uint32_t>(int_);
            else
                entry.type = static_cast<std::uint32_t>(stand_in_);
            entry.offset = offset;
            entry.size = k_extern_bytes;
            offset += k_extern_bytes;
        }
        section.size = offset;
    }

    // Offsets are those of the symbols; what has none (maps, the licence) is put one after the other behind them.
    void place_variables(btf_type& section, ObjectBtf& out) {
        const std::span entries{btf_var_secinfos(&section), btf_vlen(&section)};
        const auto data = std::ranges::find(file_.data, name_of(section), &bpf::DataSection::name);
        const auto index = static_cast<std::uint32_t>(data - file_.data.begin());
        const std::uint64_t bytes = data == file_.data.end() ? 0 : data->initial.size();
        bool exact = bytes != 0 && bytes <= UINT32_MAX;
        std::uint64_t end = bytes;
        for (btf_var_secinfo& entry : entries) {
            const std::optional<std::uint64_t> offset =
                exact ? offset_of(index, name_of(*type(entry.type))) : std::nullopt;
            if (!offset) {
                exact = false;
                end = align_up(end, 8);
            }
            entry.offset = static_cast<std::uint32_t>(offset ? *offset : end);
            end = std::max(end, std::uint64_t{entry.offset} + entry.size);
        }
        std::ranges::sort(entries, {}, &btf_var_secinfo::offset);
        section.size = static_cast<std::uint32_t>(end);
        if (index < out.sized_data.size()) out.sized_data[index] = exact && end == bytes;
    }

    std::optional<std::uint64_t> offset_of(std::uint32_t section, std::string_view name) {
        if (offsets_.empty())
            for (const bpf::Global& global : file_.globals)
                offsets_[global.section].emplace(global.name, global.offset);
        const auto& of_section = offsets_[section];
        const auto found = of_section.find(name);
        if (found == of_section.end()) return std::nullopt;
        return found->second;
    }

    // A hidden function is nobody's but this object's: the kernel verifies it with its callers, as a static one.
    void hide_functions() {
        for (const bpf::Function& function : file_.functions) {
            if (function.btf_func == bpf::k_no_type || function.is_global || function.is_program) continue;
            type(function.btf_func)->info = info(BTF_KIND_FUNC, BTF_FUNC_STATIC);
        }
    }

    const bpf::ObjectFile& file_;
    btf* btf_;
    std::int32_t int_ = 0;
    std::int32_t stand_in_ = 0;
    std::uint32_t parameter_name_ = 0;
    std::unordered_map<std::uint32_t, std::unordered_map<std::string_view, std::uint64_t>> offsets_;
};

}  // namespace

Result<ObjectBtf> load_btf(const bpf::ObjectFile& file) {
    ObjectBtf out;
    out.sized_data.resize(file.data.size());
    if (file.btf == nullptr) return out;
    std::uint32_t bytes = 0;
    const void* const raw = btf__raw_data(file.btf->get(), &bytes);
    const BtfPointer copy{raw == nullptr ? nullptr : btf__new(raw, bytes)};
    if (copy == nullptr) return fail(ENOMEM, "no memory for the object's types");
    HARENA_CHECK_OK(Fixer{file, copy.get()}.run(out));
    const void* const fixed = btf__raw_data(copy.get(), &bytes);
    if (fixed == nullptr) return fail(ENOMEM, "no memory for the object's types");
    const std::span types{static_cast<const std::byte*>(fixed), bytes};
    auto loaded = os::bpf_btf_load(types, {});
    if (!loaded) {
        std::string log(k_log_bytes, '\0');
        const auto again = os::bpf_btf_load(types, log);
        log.resize(log.find('\0') == std::string::npos ? log.size() : log.find('\0'));
        return pass_on(refusal(loaded.error(), "the object's types (BTF)", last_lines(log, 1)));
    }
    out.fd = std::move(*loaded);
    return out;
}

}  // namespace harena::kernel
