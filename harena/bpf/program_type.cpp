// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/program_type.hpp"

namespace harena::bpf {

std::string_view name_of(ProgramType type) noexcept {
    switch (type) {
        case ProgramType::unspecified:
            return "unspecified";
        case ProgramType::syscall:
            return "syscall";
        case ProgramType::xdp:
            return "xdp";
        case ProgramType::tc:
            return "tc";
        case ProgramType::socket:
            return "socket";
    }
    return "unspecified";
}

SectionMeaning meaning_of_section(std::string_view section_name) noexcept {
    SectionMeaning meaning;
    if (section_name.starts_with('?')) {
        meaning.autoload = false;
        section_name.remove_prefix(1);
    }
    const std::string_view kind = section_name.substr(0, section_name.find('/'));
    if (section_name == "syscall") {
        meaning.type = ProgramType::syscall;
    } else if (kind == "xdp" || kind == "xdp.frags") {
        meaning.type = ProgramType::xdp;
    } else if (kind == "tc" || kind == "tcx" || kind == "classifier") {
        meaning.type = ProgramType::tc;
    } else if (kind.starts_with("socket")) {
        meaning.type = ProgramType::socket;
    }
    return meaning;
}

}  // namespace harena::bpf
