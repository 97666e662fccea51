// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/btf_ext.hpp"

#include <linux/btf.h>

#include <cerrno>
#include <cstring>

namespace harena::bpf {

namespace {

// The format is described in the kernel's documentation (bpf/btf.rst, ".BTF.ext section"):
//   u16 magic, u8 version, u8 flags, u32 hdr_len, then (u32 offset, u32 length) of the parts, offsets from hdr_len on.
//   A part: u32 record size, then for each code section u32 name, u32 count, records.
constexpr std::uint32_t k_min_header_bytes = 24;
constexpr std::uint32_t k_parts_at = 8;
enum Part : std::uint32_t { k_functions = 0, k_lines = 1, k_core_relocations = 2 };
constexpr std::uint32_t k_line_shift = 10;
constexpr std::uint32_t k_column_mask = (1U << k_line_shift) - 1;

/// A reader of 32-bit words that knows where it is in the section.
class Words {
public:
    Words(std::span<const std::byte> bytes, std::size_t base) noexcept : bytes_{bytes}, base_{base} {}

    [[nodiscard]] std::size_t offset() const noexcept { return base_ + at_; }
    [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - at_; }
    [[nodiscard]] std::uint32_t peek(std::size_t word) const noexcept {
        std::uint32_t value;
        std::memcpy(&value, bytes_.data() + at_ + 4 * word, sizeof value);
        return value;
    }
    void skip(std::size_t bytes) noexcept { at_ += bytes; }
    std::uint32_t take() noexcept {
        const std::uint32_t value = peek(0);
        skip(4);
        return value;
    }

private:
    std::span<const std::byte> bytes_;  // Invariant: at_ <= bytes_.size()
    std::size_t base_;
    std::size_t at_ = 0;
};

/// Calls `visit(section name, record words)` for each record of a part whose records have at least `min_bytes`.
template <typename Begin, typename Visit>
Result<void> walk(Words words, std::uint32_t min_bytes, const Btf& btf, Begin&& begin, Visit&& visit) {
    if (words.left() == 0) return {};
    if (words.left() < 4) return fail(EINVAL, "offset {}: no room for a record size", words.offset());
    const std::uint32_t record_bytes = words.take();
    if (record_bytes < min_bytes || record_bytes % 4 != 0)
        return fail(EINVAL, "offset {}: records of {} bytes instead of {}", words.offset() - 4, record_bytes,
                    min_bytes);
    while (words.left() != 0) {
        const std::size_t offset = words.offset();
        if (words.left() < 8) return fail(EINVAL, "offset {}: no room for the head of a section", offset);
        const std::uint32_t name = words.take();
        const std::uint32_t count = words.take();
        if (name >= btf.string_bytes()) return fail(EINVAL, "offset {}: section name at {} is outside", offset, name);
        if (count == 0 || count > words.left() / record_bytes)
            return fail(EINVAL, "offset {}: {} records of {} bytes do not fit in {} bytes", offset, count, record_bytes,
                        words.left());
        begin(btf.string(name));
        for (std::uint32_t i = 0; i < count; ++i, words.skip(record_bytes)) HARENA_CHECK_OK(visit(words));
    }
    return {};
}

Result<BtfLineInfo> to_line(const Words& words, const Btf& btf) {
    const std::uint32_t place = words.peek(3);
    const BtfLineInfo line{.insn_offset = words.peek(0),
                           .file = words.peek(1),
                           .text = words.peek(2),
                           .line = place >> k_line_shift,
                           .column = place & k_column_mask};
    if (line.file >= btf.string_bytes() || line.text >= btf.string_bytes())
        return fail(EINVAL, "offset {}: string at {} or {} is outside the strings ({} bytes)", words.offset(),
                    line.file, line.text, btf.string_bytes());
    return line;
}

}  // namespace

Result<BtfExt> BtfExt::parse(std::span<const std::byte> bytes, const Btf& btf) {
    if (bytes.size() < k_min_header_bytes) return fail(EINVAL, "{} bytes are less than its header", bytes.size());
    std::uint16_t magic;
    std::memcpy(&magic, bytes.data(), sizeof magic);
    if (magic != BTF_MAGIC) return fail(EINVAL, "magic number {:#x} is not that of BTF", magic);
    if (bytes[2] != std::byte{BTF_VERSION}) return fail(EINVAL, "unknown version {}", static_cast<unsigned>(bytes[2]));
    const std::uint32_t header_bytes = Words{bytes, 0}.peek(1);
    if (header_bytes < k_min_header_bytes || header_bytes > bytes.size() || header_bytes % 4 != 0)
        return fail(EINVAL, "header of {} bytes in {} bytes", header_bytes, bytes.size());

    const auto part_of = [&](Part part) -> Result<Words> {
        const std::uint32_t at = k_parts_at + 8 * part;
        if (at + 8 > header_bytes) return Words{{}, 0};
        const std::uint32_t offset = Words{bytes, 0}.peek(at / 4);
        const std::uint32_t length = Words{bytes, 0}.peek(at / 4 + 1);
        const std::span<const std::byte> body = bytes.subspan(header_bytes);
        if (offset > body.size() || length > body.size() - offset || offset % 4 != 0)
            return fail(EINVAL, "offset {}: a part of {} bytes at {} does not fit in {} bytes", at, length, offset,
                        body.size());
        return Words{body.subspan(offset, length), header_bytes + offset};
    };

    BtfExt ext;
    HARENA_TRY(const Words functions, part_of(k_functions));
    HARENA_CHECK_OK(walk(
        functions, 8, btf, [&](std::string_view section) { ext.functions.push_back({section, {}}); },
        [&](const Words& words) -> Result<void> {
            ext.functions.back().records.push_back({.insn_offset = words.peek(0), .type = words.peek(1)});
            return {};
        }));
    HARENA_TRY(const Words lines, part_of(k_lines));
    HARENA_CHECK_OK(walk(
        lines, 16, btf, [&](std::string_view section) { ext.lines.push_back({section, {}}); },
        [&](const Words& words) -> Result<void> {
            HARENA_TRY(const BtfLineInfo line, to_line(words, btf));
            ext.lines.back().records.push_back(line);
            return {};
        }));
    HARENA_TRY(const Words core, part_of(k_core_relocations));
    std::string_view core_section;
    HARENA_CHECK_OK(walk(
        core, 16, btf, [&](std::string_view section) { core_section = section; },
        [&](const Words& words) -> Result<void> {
            if (!ext.first_core_relocation)
                ext.first_core_relocation = BtfCoreRelocation{.section = core_section, .insn_offset = words.peek(0)};
            return {};
        }));
    return ext;
}

}  // namespace harena::bpf
