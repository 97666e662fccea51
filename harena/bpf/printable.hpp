// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace harena::bpf {

/// A copy of text from an untrusted file that can stand in a one-line message: tabs become blanks and other control
/// characters question marks.
[[nodiscard]] inline std::string printable(std::string_view text) {
    std::string copy{text};
    std::ranges::transform(copy, copy.begin(), [](char c) {
        if (c == '\t') return ' ';
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    });
    return copy;
}

}  // namespace harena::bpf
