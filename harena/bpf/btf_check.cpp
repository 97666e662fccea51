// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/btf_check.hpp"

#include <cerrno>
#include <cstring>

#include <bpf/btf.h>

#include "harena/bpf/btf.hpp"

namespace harena::bpf {

namespace {

Result<void> check_reference(TypeId referred, const Btf& btf) {
    if (referred >= btf.type_count())
        return fail(EINVAL, "refers to type {}, but there are {}", referred, btf.type_count());
    return {};
}

Result<void> check_string(std::uint32_t offset, const Btf& btf) {
    if (offset >= btf.string_bytes())
        return fail(EINVAL, "name at offset {} is outside the strings ({} bytes)", offset, btf.string_bytes());
    return {};
}

/// Checks `count` entries behind `type` of which each has a name and, if `Entry` has one, a type.
template <typename Entry>
Result<void> check_entries(const Entry* entries, unsigned count, const Btf& btf) {
    for (unsigned i = 0; i < count; ++i) {
        HARENA_CHECK_OK(check_string(entries[i].name_off, btf));
        if constexpr (requires { entries[i].type; }) HARENA_CHECK_OK(check_reference(entries[i].type, btf));
    }
    return {};
}

Result<void> check_data_section(const ::btf_type& type, const Btf& btf) {
    const btf_var_secinfo* const entries = btf_var_secinfos(&type);
    for (unsigned i = 0; i < btf_vlen(&type); ++i) {
        const ::btf_type* const entry = btf.type(entries[i].type);
        if (entry == nullptr || !(btf_is_var(entry) || btf_is_func(entry)))
            return fail(EINVAL, "entry {} of section '{}' is type {}, which is no variable", i,
                        btf.string(type.name_off), entries[i].type);
    }
    return {};
}

}  // namespace

Result<BtfSpans> check_btf_header(std::span<const std::byte> bytes) {
    btf_header header;
    if (bytes.size() < sizeof header) return fail(EINVAL, "{} bytes are less than a BTF header", bytes.size());
    if (bytes.size() > UINT32_MAX) return fail(EINVAL, "{} bytes are more than BTF can have", bytes.size());
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != BTF_MAGIC) return fail(EINVAL, "magic number {:#x} is not that of BTF", header.magic);
    if (header.version != BTF_VERSION || header.flags != 0)
        return fail(EINVAL, "unknown BTF version {} with flags {:#x}", header.version, header.flags);
    // libbpf reads the fields that it knows and goes on from hdr_len, which it does not check.
    if (header.hdr_len != sizeof header)
        return fail(EINVAL, "BTF header of {} bytes instead of {}", header.hdr_len, sizeof header);
    const std::span<const std::byte> body = bytes.subspan(sizeof header);
    const std::uint64_t types_end = std::uint64_t{header.type_off} + header.type_len;
    const std::uint64_t strings_end = std::uint64_t{header.str_off} + header.str_len;
    if (types_end > body.size() || strings_end > body.size() || types_end > header.str_off || header.type_off % 4 != 0)
        return fail(EINVAL, "types ({} bytes at {}) and strings ({} bytes at {}) do not fit in {} bytes",
                    header.type_len, header.type_off, header.str_len, header.str_off, body.size());
    const BtfSpans spans{.types = body.subspan(header.type_off, header.type_len),
                         .strings = body.subspan(header.str_off, header.str_len)};
    if (spans.strings.empty() || spans.strings.front() != std::byte{0} || spans.strings.back() != std::byte{0})
        return fail(EINVAL, "the strings do not begin and end with a zero");
    return spans;
}

Result<void> check_btf_type(const ::btf_type& type, const Btf& btf) {
    HARENA_CHECK_OK(check_string(type.name_off, btf));
    const unsigned count = btf_vlen(&type);
    switch (btf_kind(&type)) {
        case BTF_KIND_INT:
        case BTF_KIND_FLOAT:
        case BTF_KIND_FWD:
            return {};
        case BTF_KIND_ENUM:
            return check_entries(btf_enum(&type), count, btf);
        case BTF_KIND_ENUM64:
            return check_entries(btf_enum64(&type), count, btf);
        case BTF_KIND_STRUCT:
        case BTF_KIND_UNION:
            return check_entries(btf_members(&type), count, btf);
        case BTF_KIND_DATASEC:
            return check_data_section(type, btf);
        case BTF_KIND_ARRAY:
            HARENA_CHECK_OK(check_reference(btf_array(&type)->type, btf));
            return check_reference(btf_array(&type)->index_type, btf);
        case BTF_KIND_FUNC_PROTO:
            HARENA_CHECK_OK(check_reference(type.type, btf));
            return check_entries(btf_params(&type), count, btf);
        case BTF_KIND_FUNC: {
            HARENA_CHECK_OK(check_reference(type.type, btf));
            const ::btf_type* const prototype = btf.type(type.type);
            if (prototype == nullptr || !btf_is_func_proto(prototype))
                return fail(EINVAL, "function '{}' has type {}, which is no prototype", btf.string(type.name_off),
                            type.type);
            return {};
        }
        case BTF_KIND_PTR:
        case BTF_KIND_TYPEDEF:
        case BTF_KIND_VOLATILE:
        case BTF_KIND_CONST:
        case BTF_KIND_RESTRICT:
        case BTF_KIND_VAR:
        case BTF_KIND_DECL_TAG:
        case BTF_KIND_TYPE_TAG:
            return check_reference(type.type, btf);
        default:
            return fail(EINVAL, "unknown kind {}", btf_kind(&type));
    }
}

}  // namespace harena::bpf
