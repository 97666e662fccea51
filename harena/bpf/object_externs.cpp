// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <cerrno>
#include <string_view>

#include <bpf/btf.h>

#include "harena/bpf/object_parts.hpp"

namespace harena::bpf {

namespace {

using TypesByName = std::unordered_map<std::string_view, TypeId>;

/// The variables and functions of a DATASEC.
TypesByName entries_of(const Btf& btf, std::string_view section) {
    TypesByName types;
    const btf_type* const found = btf.type(btf.find_data_section(section));
    if (found == nullptr) return types;
    for (unsigned i = 0; i < btf_vlen(found); ++i) {
        const TypeId entry = btf_var_secinfos(found)[i].type;
        types.emplace(btf.identifier_of(entry), entry);
    }
    return types;
}

}  // namespace

Result<void> add_externs(ObjectParts& parts) {
    const Btf& btf = *parts.object.btf;
    const TypesByName ksyms = entries_of(btf, ".ksyms");
    const TypesByName kconfig = entries_of(btf, ".kconfig");
    for (const ElfSymbol& symbol : parts.elf.symbols()) {
        if (symbol.section == SHN_COMMON)
            return fail(EINVAL, "symbol '{}' is a common one: compile with -fno-common", symbol.name);
        if (symbol.section != SHN_UNDEF || symbol.name.empty()) continue;
        if (kconfig.contains(symbol.name))
            return fail(ENOTSUP, "variable '{}' (__kconfig): values of the kernel's configuration are not built yet",
                        symbol.name);
        const auto declared = ksyms.find(symbol.name);
        if (declared == ksyms.end())
            return fail(EINVAL, "symbol '{}' is undefined: define it, or declare it with __ksym if the engine has it",
                        symbol.name);
        parts.externs.emplace(symbol.index, static_cast<std::uint32_t>(parts.object.externs.size()));
        parts.object.externs.push_back({.name = std::string{symbol.name},
                                        .weak = symbol.binding == STB_WEAK,
                                        .is_function = btf_is_func(btf.type(declared->second)),
                                        .type = declared->second});
    }
    return {};
}

}  // namespace harena::bpf
