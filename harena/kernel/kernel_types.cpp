// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/kernel_types.hpp"

#include <cerrno>
#include <span>
#include <string_view>

#include <bpf/btf.h>

#include "harena/base/os/file.hpp"

namespace harena::kernel {

namespace {
constexpr const char* k_path = "/sys/kernel/btf/vmlinux";
}

void KernelTypes::Free::operator()(::btf* types) const noexcept { btf__free(types); }

Result<KernelTypes> KernelTypes::read() {
    const auto bytes = os::read_file(k_path);
    if (!bytes)
        return os::fail_with(bytes.error(),
                             fmt::format("{}: the kernel's types, which the kernel engine needs (a kernel "
                                         "built with CONFIG_DEBUG_INFO_BTF has them)",
                                         k_path));
    std::unique_ptr<::btf, Free> types{btf__new(bytes->data(), static_cast<std::uint32_t>(bytes->size()))};
    if (types == nullptr) return fail(EINVAL, "{}: not to be parsed", k_path);
    return KernelTypes{std::move(types)};
}

Result<const KernelTypes*> KernelTypes::get() {
    static const Result<KernelTypes> types = read();
    if (!types) return pass_on(types.error());
    return &*types;
}

std::optional<std::uint32_t> KernelTypes::find(const std::string& name, std::uint32_t kind) const noexcept {
    const std::int32_t id = btf__find_by_name_kind(btf_.get(), name.c_str(), kind);
    if (id <= 0) return std::nullopt;
    return static_cast<std::uint32_t>(id);
}

std::optional<std::uint32_t> KernelTypes::function(const std::string& name) const noexcept {
    return find(name, BTF_KIND_FUNC);
}
std::optional<std::uint32_t> KernelTypes::variable(const std::string& name) const noexcept {
    return find(name, BTF_KIND_VAR);
}

std::optional<std::uint32_t> KernelTypes::member_offset(const std::string& structure,
                                                        const std::string& member) const noexcept {
    const auto id = find(structure, BTF_KIND_STRUCT);
    if (!id) return std::nullopt;
    const btf_type* const type = btf__type_by_id(btf_.get(), *id);
    for (unsigned i = 0; i < btf_vlen(type); ++i) {
        const char* const name = btf__name_by_offset(btf_.get(), btf_members(type)[i].name_off);
        if (name == nullptr || std::string_view{name} != member) continue;
        const std::uint32_t bit = btf_member_bit_offset(type, i);
        if (bit % 8 != 0 || btf_member_bitfield_size(type, i) != 0) return std::nullopt;
        return bit / 8;
    }
    return std::nullopt;
}

}  // namespace harena::kernel
