// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/load_program.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <string_view>

#include "harena/kernel/assembly.hpp"
#include "harena/kernel/refusal.hpp"
#include "harena/kernel/verifier_log.hpp"

namespace harena::kernel {

namespace {

constexpr std::size_t k_log_bytes = std::size_t{1} << 20;
// Source: Linux, kernel/bpf/log.c, bpf_verifier_log_attr_valid.
constexpr std::size_t k_max_log_bytes = UINT32_MAX >> 2;
constexpr std::size_t k_growth = 8;
constexpr int k_attempts = 20;
constexpr std::string_view k_no_memory = "no memory for the verifier's log";

constexpr std::uint32_t k_program_classifier = 3;
constexpr std::uint32_t k_program_xdp = 6;

Capabilities needed_for(std::uint32_t type) noexcept {
    const bool network = type == k_program_classifier || type == k_program_xdp;
    return k_engine_capabilities | (network ? k_cap_net_admin : 0);
}

os::SysResult<os::FileDescriptor> try_load(const os::BpfProgramSpec& spec) noexcept {
    auto loaded = os::bpf_program_load(spec);
    // A signal interrupts the verifier, which then starts afresh.
    for (int attempt = 1; attempt < k_attempts && !loaded && loaded.error().code == EAGAIN; ++attempt)
        loaded = os::bpf_program_load(spec);
    return loaded;
}

struct Log {
    std::string text;
    std::uint64_t missing = 0;  // bytes of its beginning, as far as Linux tells (from 6.4)
    bool cut = false;
};

/// Loads a program that was refused once more, for the verifier's log: its end, or, if `verbose`, all of it, as far as
/// there is memory.
os::SysResult<os::FileDescriptor> load_with_log(os::BpfProgramSpec spec, Log& log, bool verbose) {
    spec.log_level = verbose ? 2 : 1;
    os::SysResult<os::FileDescriptor> loaded = os::sys_fail(ENOMEM);
    std::size_t bytes = k_log_bytes;
    while (true) {
        std::string text;
        try {
            text.resize(bytes);
        } catch (const std::bad_alloc&) {
            return loaded;
        }
        std::uint32_t whole = 0;
        spec.log = text;
        spec.true_log_size = &whole;
        loaded = try_load(spec);
        log = {.text = std::move(text),
               .missing = whole > bytes ? whole - bytes : 0,
               .cut = whole > bytes || (!loaded && loaded.error().code == ENOSPC)};
        if (loaded || !log.cut || !verbose || bytes == k_max_log_bytes) return loaded;
        bytes = std::min(k_max_log_bytes, log.missing != 0 ? std::size_t{whole} : bytes * k_growth);
    }
}

std::string text_of(Log& log, bool verbose, const std::function<std::string(std::uint32_t)>& place) {
    if (log.text.empty()) return std::string{k_no_memory};
    log.text.resize(std::min(log.text.find('\0'), log.text.size()));
    if (log.text.empty()) return {};
    if (!verbose) return shortened(log.text, place);
    if (log.missing != 0) return fmt::format("the first {} bytes of the log are missing\n{}", log.missing, log.text);
    return log.cut ? "the log is cut\n" + log.text : "\n" + log.text;
}

}  // namespace

Result<os::FileDescriptor> load_program(os::BpfProgramSpec spec, const std::string& what, bool verbose,
                                        const std::function<std::string(std::uint32_t insn)>& place) {
    auto loaded = try_load(spec);
    if (loaded) return std::move(*loaded);
    Log log;
    auto again = load_with_log(spec, log, verbose);
    if (again) return std::move(*again);
    const Capabilities needed = needed_for(spec.type);
    try {
        return pass_on(refusal(loaded.error(), what, text_of(log, verbose, place), needed));
    } catch (const std::bad_alloc&) {
        return pass_on(refusal(loaded.error(), what, k_no_memory, needed));
    }
}

namespace {

Result<os::FileDescriptor> load_own(os::BpfProgramSpec spec, std::string_view name,
                                    const std::vector<bpf::Insn>& code) {
    spec.name = name;
    spec.license = "GPL";  // of what is loaded into the kernel; arena calls need it
    spec.instructions = code.data();
    spec.instruction_count = static_cast<std::uint32_t>(code.size());
    return load_program(spec, fmt::format("harena's own program '{}'", name), false,
                        [](std::uint32_t insn) { return fmt::format("instruction {}", insn); });
}

}  // namespace

Result<os::FileDescriptor> Assembly::load(std::string_view name) const {
    return load_own({.type = k_program_syscall, .flags = k_program_sleepable}, name, code_);
}

Result<os::FileDescriptor> Assembly::load_tracer(std::string_view name) const {
    return load_own({.type = k_program_tracepoint}, name, code_);
}

}  // namespace harena::kernel
