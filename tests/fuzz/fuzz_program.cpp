// SPDX-License-Identifier: Apache-2.0
//
// Input: one byte of resources to refer to, then instructions of 8 bytes. A ld_imm64 whose src is 1 to 5 refers to a
// map, to data or to a function, a call with src 2 to a kfunc.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tests/generated/untrusted_program.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace harena::bpf;
    test::UntrustedProgram program;
    if (size < 9 || size > 2048) return 0;
    program.split = data[0];
    program.code.resize((size - 1) / sizeof(Insn));
    std::memcpy(program.code.data(), data + 1, program.code.size() * sizeof(Insn));
    for (std::uint32_t at = 0; at < program.code.size(); ++at) {
        Insn& insn = program.code[at];
        const auto detail = static_cast<std::uint32_t>(insn.imm) % 110;
        if (insn.code == k_code_ld_imm64 && insn.src >= 1 && insn.src <= 6) {
            program.uses.push_back(
                {.insn = at, .resource = static_cast<test::Resource>(insn.src - 1), .detail = detail});
        } else if (insn.code == k_code_call && insn.src == 2) {
            program.uses.push_back({.insn = at, .resource = test::Resource::kfunc, .detail = detail % 3});
        }
    }
    // Numbers of the input may look like addresses of the host, so that only changed memory and crashes count here.
    const auto outcome = test::run_untrusted(program);
    if (outcome.harm.starts_with("memory")) std::abort();
    return 0;
}
