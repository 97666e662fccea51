// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/process_program.hpp"

#include <cerrno>

#include "harena/arena/fault_handler.hpp"
#include "harena/base/os/process.hpp"
#include "harena/bpf/interpreter.hpp"
#include "harena/bpf/watchdog.hpp"

namespace harena::bpf {

Result<RunResult> ProcessProgram::run(std::span<std::byte> context, const RunOptions& options) try {
    HARENA_CHECK_OK(check_owner());
    if (type() == ProgramType::xdp || type() == ProgramType::tc || type() == ProgramType::socket)
        return fail(ENOTSUP,
                    "program '{}' is of type {}, whose context holds a packet: this engine runs syscall programs",
                    name(), name_of(type()));
    HARENA_CHECK_OK(fault_handler::prepare_thread());
    HARENA_TRY(Watchdog* const watchdog, Watchdog::instance());

    RunControl control;
    Interpreter interpreter{image_, control, options};
    const std::uint64_t begin_ns = options.measure_time ? os::monotonic_ns() : 0;
    auto outcome = [&] {
        const Watchdog::Watch watch{*watchdog, control, options.budget_ns, options.grace_ns};
        return interpreter.run(function_, context);
    }();
    const std::uint64_t end_ns = options.measure_time ? os::monotonic_ns() : 0;

    if (outcome.fault_count > 0) log_.add(outcome.fault_count, outcome.faults);
    if (!outcome.r0) return pass_on(outcome.r0.error());
    return RunResult{.return_value = static_cast<std::uint32_t>(*outcome.r0),
                     .fault_count = outcome.fault_count,
                     .faults = std::move(outcome.faults),
                     .duration_ns = end_ns - begin_ns,
                     .out_of_time = outcome.out_of_time};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to run program '{}'", name());
}

}  // namespace harena::bpf
