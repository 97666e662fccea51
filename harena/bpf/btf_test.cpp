// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/btf.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <bpf/btf.h>
#include <gtest/gtest.h>

#include "harena/bpf/btf_ext.hpp"

namespace harena::bpf {

namespace {

using Bytes = std::vector<std::byte>;

/// Builds a BTF section type by type, without any checks.
class BtfBuilder {
public:
    /// Offset of a new string.
    std::uint32_t string(std::string_view text) {
        const auto offset = static_cast<std::uint32_t>(strings_.size());
        strings_.append(text).push_back('\0');
        return offset;
    }

    /// Number of a new type; `size_or_type` and the words after it depend on the kind.
    TypeId type(std::uint32_t kind, std::uint32_t name, std::uint32_t size_or_type,
                std::vector<std::uint32_t> more = {}, std::uint32_t vlen = 0) {
        words_.insert(words_.end(), {name, kind << 24 | vlen, size_or_type});
        words_.insert(words_.end(), more.begin(), more.end());
        return ++last_;
    }

    TypeId add_int(std::string_view name, std::uint32_t bytes) {
        return type(BTF_KIND_INT, string(name), bytes, {bytes * 8});
    }

    [[nodiscard]] Bytes bytes() const {
        const auto type_bytes = static_cast<std::uint32_t>(words_.size() * 4);
        const btf_header header{.magic = BTF_MAGIC,
                                .version = BTF_VERSION,
                                .flags = 0,
                                .hdr_len = sizeof(btf_header),
                                .type_off = 0,
                                .type_len = type_bytes,
                                .str_off = type_bytes,
                                .str_len = static_cast<std::uint32_t>(strings_.size())};
        Bytes all(sizeof header + type_bytes + strings_.size());
        std::memcpy(all.data(), &header, sizeof header);
        if (type_bytes != 0) std::memcpy(&all[sizeof header], words_.data(), type_bytes);
        std::memcpy(&all[sizeof header + type_bytes], strings_.data(), strings_.size());
        return all;
    }

    [[nodiscard]] std::shared_ptr<const Btf> parse() const {
        auto btf = Btf::parse(bytes());
        if (!btf) ADD_FAILURE() << btf.error().message();
        return btf.value_or(nullptr);
    }

private:
    std::vector<std::uint32_t> words_;
    std::string strings_ = std::string(1, '\0');
    TypeId last_ = 0;
};

void expect_refused(const Bytes& bytes, std::string_view part) {
    const auto btf = Btf::parse(bytes);
    ASSERT_FALSE(btf.has_value());
    EXPECT_EQ(btf.error().code(), EINVAL);
    EXPECT_NE(btf.error().message().find(part), std::string::npos) << btf.error().message();
}

Bytes words(std::initializer_list<std::uint32_t> values) {
    Bytes bytes(values.size() * 4);
    std::memcpy(bytes.data(), std::data(values), bytes.size());
    return bytes;
}

constexpr std::uint32_t k_ext_magic = BTF_MAGIC | BTF_VERSION << 16;

}  // namespace

TEST(Btf, names_look_like_c) {
    BtfBuilder builder;
    const TypeId number = builder.add_int("int", 4);
    const TypeId node = builder.type(BTF_KIND_STRUCT, builder.string("node"), 16);
    const TypeId tagged = builder.type(BTF_KIND_TYPE_TAG, builder.string("address_space(1)"), node);
    const TypeId constant = builder.type(BTF_KIND_CONST, 0, number);
    const TypeId pointer = builder.type(BTF_KIND_PTR, 0, constant);
    const TypeId constant_pointer = builder.type(BTF_KIND_CONST, 0, pointer);
    const TypeId twice = builder.type(BTF_KIND_PTR, 0, constant_pointer);
    const TypeId row = builder.type(BTF_KIND_ARRAY, 0, 0, {number, number, 3});
    const TypeId matrix = builder.type(BTF_KIND_ARRAY, 0, 0, {row, number, 2});
    const TypeId to_matrix = builder.type(BTF_KIND_PTR, 0, matrix);
    const TypeId pointers = builder.type(BTF_KIND_ARRAY, 0, 0, {pointer, number, 5});
    const TypeId to_node = builder.type(BTF_KIND_PTR, 0, tagged);
    const TypeId prototype = builder.type(BTF_KIND_FUNC_PROTO, 0, number);
    const TypeId callback = builder.type(BTF_KIND_PTR, 0, prototype);
    const TypeId anonymous = builder.type(BTF_KIND_UNION, 0, 8);
    const auto btf = builder.parse();
    ASSERT_NE(btf, nullptr);
    EXPECT_EQ(btf->name_of(k_no_type), "void");
    EXPECT_EQ(btf->name_of(number), "int");
    EXPECT_EQ(btf->name_of(pointer), "const int *");
    EXPECT_EQ(btf->name_of(twice), "const int *const *");
    EXPECT_EQ(btf->name_of(matrix), "int[2][3]");
    EXPECT_EQ(btf->name_of(to_matrix), "int (*)[2][3]");
    EXPECT_EQ(btf->name_of(pointers), "const int *[5]");
    EXPECT_EQ(btf->name_of(to_node), "struct node __arena *");
    EXPECT_EQ(btf->name_of(callback), "function *");
    EXPECT_EQ(btf->name_of(anonymous), "union (anonymous)");
    EXPECT_EQ(btf->name_of(1000), "(no such type)");
}

TEST(Btf, sizes_are_those_of_complete_types) {
    BtfBuilder builder;
    const TypeId number = builder.add_int("int", 4);
    const TypeId pointer = builder.type(BTF_KIND_PTR, 0, k_no_type);
    const TypeId row = builder.type(BTF_KIND_ARRAY, 0, 0, {number, number, 3});
    const TypeId alias = builder.type(BTF_KIND_TYPEDEF, builder.string("row"), row);
    const TypeId matrix = builder.type(BTF_KIND_ARRAY, 0, 0, {alias, number, 2});
    const TypeId prototype = builder.type(BTF_KIND_FUNC_PROTO, 0, number);
    const TypeId forward = builder.type(BTF_KIND_FWD, builder.string("later"), 0);
    const TypeId huge = builder.type(BTF_KIND_ARRAY, 0, 0, {matrix, number, UINT32_MAX});
    const TypeId too_huge = builder.type(BTF_KIND_ARRAY, 0, 0, {huge, number, UINT32_MAX});
    const auto btf = builder.parse();
    ASSERT_NE(btf, nullptr);
    EXPECT_EQ(btf->size_of(number).value_or(0), 4U);
    EXPECT_EQ(btf->size_of(pointer).value_or(0), 8U);
    EXPECT_EQ(btf->size_of(matrix).value_or(0), 24U);
    EXPECT_EQ(btf->size_of(huge).value_or(0), 24 * std::uint64_t{UINT32_MAX});
    for (const TypeId without : {k_no_type, prototype, forward, too_huge, TypeId{1000}})
        EXPECT_FALSE(btf->size_of(without).has_value()) << without;
}

TEST(Btf, loops_of_types_end) {
    BtfBuilder builder;
    const TypeId first = builder.type(BTF_KIND_TYPEDEF, builder.string("a"), 2);
    builder.type(BTF_KIND_CONST, 0, 1);
    const TypeId pointer = builder.type(BTF_KIND_PTR, 0, 3);
    const TypeId array = builder.type(BTF_KIND_ARRAY, 0, 0, {4, 4, 1});
    const auto btf = builder.parse();
    ASSERT_NE(btf, nullptr);
    EXPECT_FALSE(btf->size_of(first).has_value());
    EXPECT_FALSE(btf->size_of(array).has_value());
    EXPECT_FALSE(btf->skip_modifiers(first).has_value());
    EXPECT_EQ(btf->size_of(pointer).value_or(0), 8U);
    EXPECT_EQ(btf->name_of(first), "a");
    for (const TypeId type : {pointer, array}) EXPECT_TRUE(btf->name_of(type).contains("(endless)")) << type;
}

TEST(Btf, references_to_missing_types_and_strings_are_refused) {
    constexpr std::uint32_t missing = 50;
    constexpr std::array<std::uint32_t, 8> referring = {BTF_KIND_PTR,        BTF_KIND_TYPEDEF,  BTF_KIND_VOLATILE,
                                                        BTF_KIND_CONST,      BTF_KIND_RESTRICT, BTF_KIND_FUNC,
                                                        BTF_KIND_FUNC_PROTO, BTF_KIND_TYPE_TAG};
    for (const std::uint32_t kind : referring) {
        BtfBuilder builder;
        builder.type(kind, 0, missing);
        expect_refused(builder.bytes(), "type 1: refers to type 50");
    }
    BtfBuilder array;
    array.type(BTF_KIND_ARRAY, 0, 0, {0, missing, 1});
    expect_refused(array.bytes(), "refers to type 50");
    BtfBuilder member;
    member.type(BTF_KIND_STRUCT, 0, 8, {0, missing, 0}, 1);
    expect_refused(member.bytes(), "refers to type 50");
    BtfBuilder parameter;
    parameter.type(BTF_KIND_FUNC_PROTO, 0, 0, {0, missing}, 1);
    expect_refused(parameter.bytes(), "refers to type 50");
    BtfBuilder section;
    section.type(BTF_KIND_DATASEC, section.string(".data"), 4, {missing, 0, 4}, 1);
    expect_refused(section.bytes(), "is type 50, which is no variable");
    BtfBuilder function;
    function.add_int("int", 4);
    function.type(BTF_KIND_FUNC, function.string("f"), 1);
    expect_refused(function.bytes(), "which is no prototype");
    BtfBuilder named;
    named.type(BTF_KIND_STRUCT, 9999, 0);
    expect_refused(named.bytes(), "name at offset 9999");
    BtfBuilder enumerator;
    enumerator.type(BTF_KIND_ENUM, 0, 4, {9999, 1}, 1);
    expect_refused(enumerator.bytes(), "name at offset 9999");
}

TEST(Btf, headers_that_point_outside_are_refused) {
    BtfBuilder builder;
    builder.add_int("int", 4);
    const Bytes good = builder.bytes();
    ASSERT_TRUE(Btf::parse(good).has_value());
    for (std::size_t size = 0; size < good.size(); ++size)
        EXPECT_FALSE(Btf::parse(std::span{good}.first(size)).has_value()) << size;
    for (std::size_t word = 0; word < sizeof(btf_header) / 4; ++word) {
        for (const std::uint32_t value : {1U, 5U, 0x1000U, 0x7fff'ffffU, 0x8000'0000U, 0xffff'fff8U, 0xffff'ffffU}) {
            Bytes bad = good;
            std::memcpy(&bad[4 * word], &value, sizeof value);
            if (bad == good) continue;
            const auto btf = Btf::parse(bad);
            EXPECT_FALSE(btf.has_value()) << "word " << word << " is " << value;
        }
    }
}

TEST(Btf, types_cut_by_the_end_are_refused) {
    BtfBuilder builder;
    builder.type(BTF_KIND_STRUCT, 0, 8, {}, 3);
    expect_refused(builder.bytes(), "libbpf cannot read it");
    BtfBuilder unknown;
    unknown.type(31, 0, 0);
    expect_refused(unknown.bytes(), "libbpf cannot read it");
}

TEST(Btf, data_sections_are_found_by_name) {
    BtfBuilder builder;
    const TypeId number = builder.add_int("int", 4);
    const TypeId variable = builder.type(BTF_KIND_VAR, builder.string("x"), number, {1});
    const TypeId section = builder.type(BTF_KIND_DATASEC, builder.string(".data"), 0, {variable, 0, 4}, 1);
    const auto btf = builder.parse();
    ASSERT_NE(btf, nullptr);
    EXPECT_EQ(btf->find_data_section(".data"), section);
    EXPECT_EQ(btf->find_data_section(".bss"), k_no_type);
    EXPECT_EQ(btf->identifier_of(variable), "x");
}

TEST(BtfExt, records_of_each_part_are_read) {
    BtfBuilder builder;
    const std::uint32_t text = builder.string(".text");
    const std::uint32_t file = builder.string("a.c");
    const auto btf = builder.parse();
    ASSERT_NE(btf, nullptr);
    const auto ext = BtfExt::parse(words({k_ext_magic, 32,      0,  20,   20,   44, 64,          28,  //
                                          8,           text,    1,  16,   7,                          //
                                          16,          text,    2,  0,    file, 0,  5 << 10 | 3, 8,  file,
                                          text,        6 << 10, 16, text, 1,    24, 0,           0,  0}),
                                   *btf);
    ASSERT_TRUE(ext.has_value()) << ext.error().message();
    ASSERT_EQ(ext->functions.size(), 1U);
    EXPECT_EQ(ext->functions[0].section, ".text");
    EXPECT_EQ(ext->functions[0].records.at(0).insn_offset, 16U);
    EXPECT_EQ(ext->functions[0].records.at(0).type, 7U);
    ASSERT_EQ(ext->lines.size(), 1U);
    ASSERT_EQ(ext->lines[0].records.size(), 2U);
    EXPECT_EQ(ext->lines[0].records[0].line, 5U);
    EXPECT_EQ(ext->lines[0].records[0].column, 3U);
    EXPECT_EQ(ext->lines[0].records[1].text, text);
    ASSERT_TRUE(ext->first_core_relocation.has_value());
    EXPECT_EQ(ext->first_core_relocation->insn_offset, 24U);
}

TEST(BtfExt, malformed_sections_are_refused_with_an_offset) {
    const auto btf = BtfBuilder{}.parse();
    ASSERT_NE(btf, nullptr);
    const auto expect_refusal = [&](const Bytes& bytes, std::string_view part) {
        const auto ext = BtfExt::parse(bytes, *btf);
        ASSERT_FALSE(ext.has_value()) << part;
        EXPECT_NE(ext.error().message().find(part), std::string::npos) << ext.error().message();
    };
    expect_refusal({}, "0 bytes");
    expect_refusal(words({k_ext_magic + 1, 24, 0, 0, 0, 0}), "magic");
    expect_refusal(words({k_ext_magic + 0x10000, 24, 0, 0, 0, 0}), "version 2");
    expect_refusal(words({k_ext_magic, 28, 0, 0, 0, 0}), "header of 28 bytes");
    expect_refusal(words({k_ext_magic, 24, 0, 4, 0, 0}), "offset 8: a part of 4 bytes");
    expect_refusal(words({k_ext_magic, 24, 0xffff'fffc, 8, 0, 0}), "offset 8: a part of 8 bytes at 4294967292");
    expect_refusal(words({k_ext_magic, 24, 0, 4, 0, 0, 4}), "offset 24: records of 4 bytes");
    expect_refusal(words({k_ext_magic, 24, 0, 8, 0, 0, 8, 0}), "offset 28: no room for the head");
    expect_refusal(words({k_ext_magic, 24, 0, 12, 0, 0, 8, 0, 0xffff'ffff}), "offset 28: 4294967295 records");
    expect_refusal(words({k_ext_magic, 24, 0, 20, 0, 0, 8, 77, 1, 0, 0}), "offset 28: section name at 77");
    expect_refusal(words({k_ext_magic, 24, 0, 0, 0, 28, 16, 0, 1, 0, 99, 0, 0}), "offset 36: string at 99");
}

}  // namespace harena::bpf
