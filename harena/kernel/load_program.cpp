// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/load_program.hpp"

#include <cerrno>

#include "harena/kernel/assembly.hpp"
#include "harena/kernel/refusal.hpp"
#include "harena/kernel/verifier_log.hpp"

namespace harena::kernel {

namespace {

constexpr std::size_t k_log_bytes = std::size_t{1} << 20;
constexpr std::size_t k_verbose_log_bytes = std::size_t{32} << 20;
constexpr int k_attempts = 20;

os::SysResult<os::FileDescriptor> try_load(const os::BpfProgramSpec& spec) noexcept {
    auto loaded = os::bpf_program_load(spec);
    // A signal interrupts the verifier, which then starts afresh.
    for (int attempt = 1; attempt < k_attempts && !loaded && loaded.error().code == EAGAIN; ++attempt)
        loaded = os::bpf_program_load(spec);
    return loaded;
}

}  // namespace

Result<os::FileDescriptor> load_program(os::BpfProgramSpec spec, const std::string& what, bool verbose,
                                        const std::function<std::string(std::uint32_t insn)>& place) {
    auto loaded = try_load(spec);
    if (loaded) return std::move(*loaded);
    std::string log(verbose ? k_verbose_log_bytes : k_log_bytes, '\0');
    spec.log = log;
    spec.log_level = verbose ? 2 : 1;
    auto again = try_load(spec);
    if (again) return std::move(*again);
    log.resize(std::min(log.find('\0'), log.size()));
    const std::string why = log.empty() ? std::string{} : verbose ? "\n" + log : shortened(log, place);
    return pass_on(refusal(loaded.error(), what, why));
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
