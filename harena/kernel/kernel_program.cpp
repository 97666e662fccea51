// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/kernel_program.hpp"

#include <cerrno>
#include <new>

#include "harena/base/os/bpf.hpp"
#include "harena/base/os/process.hpp"

namespace harena::kernel {

namespace {
constexpr std::size_t k_max_context_bytes = 65535;
}

Result<bpf::RunResult> KernelProgram::run(std::span<std::byte> context, const bpf::RunOptions& options) try {
    HARENA_CHECK_OK(fork_guard_.check(fmt::format("program '{}'", name())));
    if (type() != bpf::ProgramType::syscall && type() != bpf::ProgramType::unspecified)
        return fail(ENOTSUP,
                    "program '{}' is of type {}, whose context holds a packet: this engine runs syscall programs",
                    name(), name_of(type()));
    if (options.max_instructions)
        return fail(ENOTSUP, "program '{}': Linux does not count instructions; give no max_instructions", name());
    if (context.size() > k_max_context_bytes)
        return fail(E2BIG, "program '{}': a context of {} bytes; Linux takes at most {}", name(), context.size(),
                    k_max_context_bytes);
    const Result<const FaultTap*> tap = group_->tap();
    const bool taps = tap && *tap != nullptr;
    const Result<std::uint64_t> thread = taps ? (*tap)->this_thread() : 0;
    const std::uint64_t position = taps ? (*tap)->position() : 0;
    const std::uint64_t begin_ns = os::monotonic_ns();
    const auto result = os::bpf_program_run(fd_.get(), context);
    const std::uint64_t end_ns = os::monotonic_ns();
    bpf::RunResult out;
    out.faults_known = tap && thread;
    if (taps && thread) {
        const FaultTap::Records seen = (*tap)->since(position, *thread);
        out.faults_known = seen.complete;
        for (const FaultTap::Record& record : seen.records)
            if (auto fault = group_->fault(record)) out.faults.push_back(std::move(*fault));
        out.fault_count = out.faults.size();
        if (out.faults.size() > bpf::FaultLog::k_kept)
            out.faults.erase(out.faults.begin(), out.faults.end() - bpf::FaultLog::k_kept);
        if (out.fault_count > 0) log_.add(out.fault_count, out.faults);
    }
    if (options.measure_time) out.duration_ns = end_ns - begin_ns;
    if (!result) {
        const bool too_small = result.error().code == EINVAL;
        return os::fail_with(
            result.error(),
            fmt::format("program '{}' was not run{}", name(),
                        too_small ? fmt::format(" (its context has {} bytes, and it uses more)", context.size()) : ""));
    }
    out.return_value = *result;
    return out;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to run program '{}'", name());
}

Result<void> KernelProgram::counts_faults() const {
    HARENA_TRY(const FaultTap* const tap, group_->tap());
    if (tap != nullptr) HARENA_CHECK_OK(tap->this_thread());
    return {};
}

}  // namespace harena::kernel
