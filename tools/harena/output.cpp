// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/output.hpp"

#include <array>
#include <cstddef>
#include <cstdio>

#include <fmt/format.h>

#include "harena/base/page_math.hpp"

namespace harena::tool {

namespace {

/// Length of the printable UTF-8 character at the start of `text`; 0 for a control character and for malformed bytes.
std::size_t printable_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned first = byte(0);
    if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
    std::uint32_t code = first & (0xffU >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0U) != 0x80) return 0;
        code = code << 6 | (byte(i) & 0x3fU);
    }
    constexpr std::array<std::uint32_t, 5> smallest{0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    // U+0080 to U+009F are control characters too; U+202A to U+202E and U+2066 to U+2069 reverse what follows.
    const bool reorders = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
    return code < smallest[length] || code > 0x10ffff || surrogate || code < 0xa0 || reorders ? 0 : length;
}

}  // namespace

std::string escaped(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = printable_length(text);
        if (length != 0) {
            out += text.substr(0, length);
        } else if (text[0] == '\n') {
            out += "\\n";
        } else if (text[0] == '\t') {
            out += ' ';
        } else {
            out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
        }
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return out;
}

std::string human_bytes(std::uint64_t bytes) {
    for (const auto& [unit, name] : {std::pair{k_gib, "GiB"}, std::pair{k_mib, "MiB"}, std::pair{k_kib, "KiB"}})
        if (bytes >= unit && bytes % unit == 0) return fmt::format("{} {}", bytes / unit, name);
    return fmt::format("{}", bytes);
}

int report(int status, const Error& error) {
    fmt::print(stderr, "harena: {}\n", escaped(error.message()));
    return status;
}

void print_json(const Json& json) {
    // In ASCII: control characters and what reverses text are above that, too.
    fmt::print("{}\n", json.dump(2, ' ', true, Json::error_handler_t::replace));
}

}  // namespace harena::tool
