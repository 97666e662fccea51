// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "harena/bpf/object_file.hpp"

namespace harena::bpf {

/// What a section name says about the programs in it: "?xdp.frags/ingress" is {xdp, autoload false}.
struct SectionMeaning {
    ProgramType type = ProgramType::unspecified;
    bool autoload = true;
};

/// Never fails: names that harena does not know give `ProgramType::unspecified`.
[[nodiscard]] SectionMeaning meaning_of_section(std::string_view section_name) noexcept;

}  // namespace harena::bpf
