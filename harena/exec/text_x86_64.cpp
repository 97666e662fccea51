// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_x86_64.hpp"

#include <cpuid.h>

#include <array>
#include <cstring>
#include <string_view>

namespace harena::text_machine {

bool fetches_aligned_words_whole() noexcept {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) == 0) return false;
    const std::array<unsigned, 3> registers{ebx, edx, ecx};
    std::array<char, 12> vendor{};
    std::memcpy(vendor.data(), registers.data(), vendor.size());
    const std::string_view name{vendor.data(), vendor.size()};
    return name == "AuthenticAMD" || name == "HygonGenuine";
}

}  // namespace harena::text_machine
