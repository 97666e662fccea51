// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "tools/harena/cc.hpp"
#include "tools/harena/doctor.hpp"
#include "tools/harena/dump.hpp"
#include "tools/harena/inspect.hpp"
#include "tools/harena/output.hpp"
#include "tools/harena/run.hpp"

namespace harena::tool {
namespace {

constexpr std::uint64_t k_max_budget_ms = 24 * 60 * 60 * 1000;

/// "0x100000000000", or the same without 0x.
std::optional<std::uint64_t> parse_hex(std::string_view text) {
    if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

/// Prints what is wrong with the command line, or the help that was asked for.
int report_usage(const CLI::App& app, const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return report(k_bad_input, {EINVAL, fmt::format("{} (see harena --help)", error.what())});
}

int main_with(int argc, const char* const* argv) {
    CLI::App app{"Runs BPF programs with arenas in this process: no privileges needed"};
    app.name("harena");
    app.require_subcommand(1);

    RunCommand run;
    std::string address;
    CLI::App* const run_app = app.add_subcommand("run", "Run a program of an object once");
    run_app->add_option("FILE", run.file, "An object, or BPF C (.c), which is compiled first")->required();
    run_app->add_option("--program", run.program, "Name of the program (default: the only one)");
    run_app->add_option("--ctx", run.context_file, "File with the bytes that the program's context points to");
    run_app->add_option("--budget-ms", run.budget_ms, "Wall time after which the program is ended")
        ->check(CLI::Range(std::uint64_t{0}, k_max_budget_ms))
        ->capture_default_str();
    std::string engine = "process";
    run_app
        ->add_option("--engine", engine,
                     "Where the program runs: process, or kernel (needs CAP_BPF and CAP_PERFMON, or root)")
        ->check(CLI::IsMember({"process", "kernel"}))
        ->capture_default_str();
    run_app->add_flag("--verbose", run.verbose, "If the kernel refuses a program, print its verifier's whole log");
    run_app->add_option("--arena-address", address, "Address of the arena, in hexadecimal; 0: any");
    run_app->add_flag("--json", run.json, "Print JSON");

    CcOptions cc;
    CLI::App* const cc_app =
        app.add_subcommand("cc", "Compile a BPF C file: harena cc FILE.bpf.c [-o OUT] [-- CLANG FLAGS...]");
    cc_app->add_option("FILE", cc.source, "The BPF C file")->required();
    cc_app->add_option("-o", cc.output, "The object (default: FILE.bpf.o in the current folder)");
    cc_app->add_option("FLAGS", cc.flags, "After --: more flags for clang");

    DumpCommand dump;
    CLI::App* const dump_app = app.add_subcommand("dump", "Show what an object consists of");
    dump_app->add_option("FILE", dump.file, "The object")->required();
    dump_app->add_flag("--json", dump.json, "Print JSON");

    InspectCommand inspect;
    CLI::App* const inspect_app =
        app.add_subcommand("inspect", "Show the areas, arenas and pools of a process that uses harena");
    inspect_app->add_option("PID", inspect.pid, "A process ID, or self")->required();
    inspect_app->add_option("--svg", inspect.svg_file, "Draw a picture of its address space and its arenas' pages");
    inspect_app->add_flag("--json", inspect.json, "Print JSON");

    bool doctor_json = false;
    CLI::App* const doctor_app =
        app.add_subcommand("doctor", "Show what this machine offers and what harena uses of it");
    doctor_app->add_flag("--json", doctor_json, "Print JSON");

    const auto is_first = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
    if (argc > 1 && argv[1][0] != '-' && std::ranges::none_of(app.get_subcommands({}), is_first))
        return report(k_bad_input,
                      {EINVAL, fmt::format("no command '{}'; there are: run, cc, dump, inspect, doctor", argv[1])});
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return report_usage(app, error);
    }
    if (*run_app) {
        if (!address.empty()) {
            run.arena_address = parse_hex(address);
            if (!run.arena_address)
                return report(k_bad_input,
                              {EINVAL, fmt::format("--arena-address: '{}' is not a hexadecimal number", address)});
        }
        run.in_kernel = engine == "kernel";
        if (run.in_kernel && run_app->count("--budget-ms") != 0)
            return report(k_bad_input, {EINVAL, "--budget-ms: the kernel's budget is 250 ms and cannot be changed"});
        return run_program(run);
    }
    if (*cc_app) return run_cc(cc);
    if (*dump_app) return run_dump(dump);
    if (*inspect_app) return run_inspect(inspect);
    return run_doctor(doctor_json);
}

}  // namespace
}  // namespace harena::tool

int main(int argc, char** argv) {
    const int status = harena::tool::main_with(argc, argv);
    // A full disk or a closed pipe shows only now: output that was lost is no success.
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
    return harena::tool::report(harena::tool::k_bad_input, {EIO, "the output could not be written"});
}
