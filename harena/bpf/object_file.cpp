// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/object_file.hpp"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>

#include "harena/base/os/file.hpp"
#include "harena/bpf/object_parts.hpp"
#include "harena/bpf/printable.hpp"

namespace harena::bpf {

namespace {

constexpr std::size_t k_max_message_bytes = 1000;
constexpr std::size_t k_max_license_bytes = 127;  // kernel: char license[128]

/// What the file says can be anything; what people read is one line of bounded length.
Error one_line(const Error& error) {
    return {error.code(), printable(std::string_view{error.message()}.substr(0, k_max_message_bytes))};
}

/// Sections that change what an object means, and that harena does not know.
Result<void> refuse_unknown_sections(const ElfFile& elf) {
    constexpr std::array<std::string_view, 3> unknown = {"maps", ".struct_ops", ".struct_ops.link"};
    for (const ElfSection& section : elf.sections()) {
        if (section.size == 0 || std::ranges::find(unknown, section.name) == unknown.end()) continue;
        return fail(ENOTSUP, "section '{}': {}", section.name,
                    section.name == "maps" ? "maps of the old style; define them in SEC(\".maps\")"
                                           : "struct_ops programs are not built yet");
    }
    return {};
}

Result<std::string> read_license(const ElfFile& elf) {
    HARENA_TRY(const ElfSection* const section, elf.find_section("license"));
    if (section == nullptr) return std::string{};
    const std::span<const std::byte> bytes =
        section->bytes.first(std::min(section->bytes.size(), k_max_license_bytes + 1));
    const auto end = std::ranges::find(bytes, std::byte{0});
    if (end == bytes.end())
        return fail(EINVAL, "section 'license' offset 0: not terminated within {} bytes", bytes.size());
    return printable({reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(end - bytes.begin())});
}

Result<std::shared_ptr<const Btf>> read_btf(const ElfFile& elf) {
    HARENA_TRY(const ElfSection* const section, elf.find_section(".BTF"));
    if (section == nullptr || section->bytes.empty()) return fail(EINVAL, "has no BTF: compile with -g");
    Result<std::shared_ptr<const Btf>> btf = Btf::parse(section->bytes);
    if (!btf) return pass_on(btf.error().in("section '.BTF'"));
    return btf;
}

Result<void> read_btf_ext(ObjectParts& parts) {
    HARENA_TRY(const ElfSection* const section, parts.elf.find_section(".BTF.ext"));
    if (section == nullptr) return {};
    const Result<BtfExt> ext = BtfExt::parse(section->bytes, *parts.object.btf);
    if (!ext) return pass_on(ext.error().in("section '.BTF.ext'"));
    const Result<void> added = add_lines(parts, *ext);
    if (!added) return added.error().code() == ENOTSUP ? added : pass_on(added.error().in("section '.BTF.ext'"));
    return {};
}

Result<void> build(ObjectFile& object, std::span<const std::byte> bytes, const ObjectFileOptions& options) {
    HARENA_TRY(const ElfFile elf, ElfFile::parse(bytes));
    ObjectParts parts{elf, options, object};
    HARENA_CHECK_OK(refuse_unknown_sections(elf));
    HARENA_TRY(object.btf, read_btf(elf));
    HARENA_TRY(object.license, read_license(elf));
    HARENA_CHECK_OK(add_code(parts));
    HARENA_CHECK_OK(add_data(parts));
    HARENA_CHECK_OK(add_maps(parts));
    HARENA_CHECK_OK(add_externs(parts));
    HARENA_CHECK_OK(read_btf_ext(parts));
    HARENA_CHECK_OK(link_code(parts));
    return link_data(parts);
}

}  // namespace

Result<ObjectFile> ObjectFile::read(const std::string& path, const ObjectFileOptions& options) try {
    const auto bytes = os::read_file(path);
    if (!bytes)
        return pass_on(one_line(Error{bytes.error().code, fmt::format("{}: {}", path, os::describe(bytes.error()))}));
    return parse(*bytes, path, options);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to read the object");
}

Result<ObjectFile> ObjectFile::parse(std::span<const std::byte> bytes, std::string name,
                                     const ObjectFileOptions& options) try {
    ObjectFile object;
    object.name = std::move(name);
    const Result<void> built = build(object, bytes, options);
    if (!built) return pass_on(one_line(built.error().in(object.name)));
    return object;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to parse the object");
}

}  // namespace harena::bpf
