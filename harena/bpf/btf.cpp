// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/btf.hpp"

#include <cerrno>
#include <cstring>
#include <utility>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "harena/base/os/sys_result.hpp"
#include "harena/bpf/btf_check.hpp"

namespace harena::bpf {

namespace {

/// More modifiers, pointers or array dimensions than this in one chain are taken for a loop.
constexpr unsigned k_max_depth = 64;
/// Identifiers are cut after this many bytes in messages.
constexpr std::size_t k_max_identifier_bytes = 256;

bool is_modifier(const btf_type* type) noexcept { return btf_is_mod(type) || btf_is_typedef(type); }

/// libbpf writes its complaints to stderr, which belongs to the host. Only once: the host may set its own function.
void silence_libbpf() noexcept {
    static const bool silenced = [] {
        libbpf_set_print(nullptr);
        return true;
    }();
    static_cast<void>(silenced);
}

}  // namespace

void Btf::Free::operator()(::btf* btf) const noexcept { btf__free(btf); }

Result<std::shared_ptr<const Btf>> Btf::parse(std::span<const std::byte> bytes) {
    HARENA_TRY(const BtfSpans spans, check_btf_header(bytes));
    silence_libbpf();
    std::unique_ptr<::btf, Free> handle{btf__new(bytes.data(), static_cast<std::uint32_t>(bytes.size()))};
    if (!handle) return fail(EINVAL, "libbpf cannot read it ({})", os::describe(os::SysError{errno}));

    std::shared_ptr<Btf> btf{new Btf{std::move(handle)}};
    btf->type_count_ = btf__type_cnt(btf->get());
    btf->string_bytes_ = static_cast<std::uint32_t>(spans.strings.size());
    for (TypeId id = 1; id < btf->type_count_; ++id) {
        const btf_type* const type = btf->type(id);
        if (const Result<void> checked = check_btf_type(*type, *btf); !checked)
            return pass_on(checked.error().in(fmt::format("type {}", id)));
        if (btf_is_datasec(type)) btf->data_sections_.emplace(btf->string(type->name_off), id);
    }
    return btf;
}

const ::btf_type* Btf::type(TypeId type) const noexcept {
    return type == k_no_type || type >= type_count_ ? nullptr : btf__type_by_id(btf_.get(), type);
}

std::string_view Btf::string(std::uint32_t offset) const noexcept {
    if (offset >= string_bytes_) return {};
    const char* const text = btf__str_by_offset(btf_.get(), offset);
    return text == nullptr ? std::string_view{} : std::string_view{text, ::strnlen(text, k_max_btf_string_bytes)};
}

std::string_view Btf::identifier_of(TypeId type) const noexcept {
    const btf_type* const found = this->type(type);
    return found == nullptr ? std::string_view{} : string(found->name_off);
}

Result<TypeId> Btf::skip_modifiers(TypeId type) const {
    TypeId id = type;
    for (unsigned depth = 0; depth < k_max_depth; ++depth) {
        const btf_type* const found = this->type(id);
        if (found == nullptr || !is_modifier(found)) return id;
        id = found->type;
    }
    return fail(EINVAL, "BTF type {} is a loop of modifiers", type);
}

TypeId Btf::find_data_section(std::string_view section_name) const noexcept {
    const auto found = data_sections_.find(section_name);
    return found == data_sections_.end() ? k_no_type : found->second;
}

Result<std::uint64_t> Btf::size_of(TypeId type) const {
    std::uint64_t elements = 1;
    TypeId id = type;
    for (unsigned depth = 0; depth < k_max_depth; ++depth) {
        const btf_type* const found = this->type(id);
        if (found == nullptr) return fail(EINVAL, "BTF type {}: void or no type at all has no size", type);
        if (is_modifier(found) || btf_is_var(found)) {
            id = found->type;
            continue;
        }
        std::uint64_t unit = 0;
        switch (btf_kind(found)) {
            case BTF_KIND_INT:
            case BTF_KIND_FLOAT:
            case BTF_KIND_ENUM:
            case BTF_KIND_ENUM64:
            case BTF_KIND_STRUCT:
            case BTF_KIND_UNION:
            case BTF_KIND_DATASEC:
                unit = found->size;
                break;
            case BTF_KIND_PTR:
                unit = 8;
                break;
            case BTF_KIND_ARRAY:
                unit = btf_array(found)->nelems;
                break;
            default:
                return fail(EINVAL, "BTF type {} ({}) has no size", type, name_of(type));
        }
        if (__builtin_mul_overflow(elements, unit, &elements))
            return fail(EINVAL, "BTF type {} is larger than 64 bits can say", type);
        if (!btf_is_array(found)) return elements;
        id = btf_array(found)->type;
    }
    return fail(EINVAL, "BTF type {} is a loop, or nested too deeply", type);
}

std::string Btf::name_of(TypeId type) const {
    std::string declarator;  // stars and dimensions, around the name that a variable of this type would have
    std::string qualifiers;  // of the type that comes next
    std::string tags;
    const auto full = [&](std::string_view keyword, std::string_view identifier) {
        const bool space = !declarator.empty() && declarator.front() != '[';
        return fmt::format("{}{}{}{}{}{}", qualifiers, keyword, identifier.empty() ? "(anonymous)" : identifier, tags,
                           space ? " " : "", declarator);
    };
    TypeId id = type;
    for (unsigned depth = 0; depth < k_max_depth; ++depth) {
        const btf_type* const found = this->type(id);
        if (found == nullptr) return full("", id == k_no_type ? "void" : "(no such type)");
        const std::string_view identifier = string(found->name_off).substr(0, k_max_identifier_bytes);
        switch (btf_kind(found)) {
            case BTF_KIND_PTR:
                declarator = fmt::format("*{}{}", std::exchange(qualifiers, {}), declarator);
                break;
            case BTF_KIND_ARRAY:
                if (declarator.starts_with('*')) declarator = fmt::format("({})", declarator);
                declarator += fmt::format("[{}]", btf_array(found)->nelems);
                break;
            case BTF_KIND_CONST:
                qualifiers += "const ";
                break;
            case BTF_KIND_VOLATILE:
                qualifiers += "volatile ";
                break;
            case BTF_KIND_RESTRICT:
                qualifiers += "restrict ";
                break;
            case BTF_KIND_TYPE_TAG:
                tags += identifier == "address_space(1)" ? " __arena" : fmt::format(" __{}", identifier);
                break;
            case BTF_KIND_VAR:
            case BTF_KIND_DECL_TAG:
                break;
            case BTF_KIND_STRUCT:
                return full("struct ", identifier);
            case BTF_KIND_UNION:
                return full("union ", identifier);
            case BTF_KIND_ENUM:
            case BTF_KIND_ENUM64:
                return full("enum ", identifier);
            case BTF_KIND_FWD:
                return full(btf_kflag(found) ? "union " : "struct ", identifier);
            case BTF_KIND_FUNC_PROTO:
                return full("", "function");
            default:
                return full("", identifier);
        }
        id = btf_is_array(found) ? btf_array(found)->type : found->type;
    }
    return full("", "(endless)");
}

}  // namespace harena::bpf
