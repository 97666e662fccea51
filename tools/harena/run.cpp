// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/run.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "harena/base/os/file.hpp"
#include "harena/base/os/temp_file.hpp"
#include "harena/bpf/object.hpp"
#include "harena/kernel/kernel_engine.hpp"
#include "tools/harena/cc.hpp"
#include "tools/harena/output.hpp"

namespace harena::tool {

namespace {

/// Linux takes no larger context for a program of type syscall.
constexpr std::size_t k_max_context_bytes = 65535;
constexpr std::size_t k_context_bytes_shown = 32;

/// A program that is ready to run, and what it runs on.
struct Ready {
    bpf::Object object;
    bpf::Program* program;
    std::vector<std::byte> context;
};

/// The bytes of the object, compiled if it is BPF C.
Result<std::vector<std::byte>> read_object(const RunCommand& command) {
    if (!command.file.ends_with(".c")) {
        auto bytes = os::read_file(command.file);
        if (!bytes) return os::fail_with(bytes.error(), command.file);
        return *std::move(bytes);
    }
    const auto object_file = os::TempFile::create(".bpf.o");
    if (!object_file) return os::fail_with(object_file.error(), command.file + ": no temporary file for its object");
    HARENA_CHECK_OK(compile({.source = command.file, .output = object_file->path(), .flags = {}}));
    auto bytes = os::read_file(object_file->path());
    if (!bytes) return os::fail_with(bytes.error(), command.file + ": its object cannot be read");
    return *std::move(bytes);
}

std::string list_of(const std::vector<const bpf::Function*>& programs) {
    std::string names;
    for (const bpf::Function* program : programs)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", program->name);
    return names.empty() ? "none" : names;
}

/// The program to run: the one asked for, or the only one that is loaded by default.
Result<bpf::Function> choose_program(const RunCommand& command, const bpf::ObjectFile& file) {
    std::vector<const bpf::Function*> all;
    std::vector<const bpf::Function*> automatic;
    for (const bpf::Function& function : file.functions) {
        if (!function.is_program) continue;
        all.push_back(&function);
        if (function.autoload) automatic.push_back(&function);
    }
    if (!command.program.empty()) {
        const auto found = std::ranges::find(all, command.program, &bpf::Function::name);
        if (found != all.end()) return **found;
        return fail(ENOENT, "{}: no program '{}'; there are: {}", command.file, command.program, list_of(all));
    }
    if (automatic.size() == 1) return *automatic.front();
    if (automatic.empty())
        return fail(ENOENT, "{}: no program that is loaded by default; name one with --program: {}", command.file,
                    list_of(all));
    return fail(EINVAL, "{}: {} programs; name one with --program: {}", command.file, all.size(), list_of(all));
}

Result<std::vector<std::byte>> read_context(const std::string& path) {
    if (path.empty()) return std::vector<std::byte>{};
    auto bytes = os::read_file(path, 16 * k_max_context_bytes);
    if (!bytes && bytes.error().code == EFBIG)
        return fail(E2BIG, "{}: a context of more than {} bytes; at most {} are possible", path,
                    16 * k_max_context_bytes, k_max_context_bytes);
    if (!bytes) return os::fail_with(bytes.error(), path + ": the context cannot be read");
    if (bytes->size() > k_max_context_bytes)
        return fail(E2BIG, "{}: a context of {} bytes; at most {} are possible", path, bytes->size(),
                    k_max_context_bytes);
    return *std::move(bytes);
}

Result<Ready> prepare(const RunCommand& command) {
    HARENA_TRY(auto context, read_context(command.context_file));
    HARENA_TRY(const std::vector<std::byte> bytes, read_object(command));
    HARENA_TRY(const bpf::ObjectFile file, bpf::ObjectFile::parse(bytes, command.file));
    HARENA_TRY(const bpf::Function chosen, choose_program(command, file));

    bpf::OpenOptions options;
    options.arena_address = command.arena_address;
    options.only_load = chosen.name;  // a program that the engine does not take is in nobody's way
    HARENA_TRY(bpf::Object object, bpf::Object::open(bytes, command.file, options));
    bpf::Engine& engine = command.in_kernel ? kernel::engine() : bpf::Engine::process();
    HARENA_CHECK_OK(object.load(engine, {.verbose_log = command.verbose}));
    HARENA_TRY(bpf::Program* const program, object.program(chosen.name));
    return Ready{std::move(object), program, std::move(context)};
}

std::string hex(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte b : bytes) text += fmt::format("{:02x}", std::to_underlying(b));
    return text;
}

Json to_json(const bpf::Fault& fault) {
    return {{"access", fault.access == bpf::Fault::Access::read ? "read" : "write"},
            {"address", fmt::format("0x{:x}", fault.address.value())},
            {"function", fault.function},
            {"instruction", fault.insn},
            {"place", fault.place}};
}

Json to_json(const RunCommand& command, const Ready& ready, const Result<bpf::RunResult>& result) {
    Json json{{"file", command.file},
              {"engine", command.in_kernel ? "kernel" : "process"},
              {"program", ready.program->name()},
              {"type", bpf::name_of(ready.program->type())},
              {"status", result ? "ok" : "error"}};
    if (result) {
        json["return_value"] = result->return_value;
        json["duration_ns"] = result->duration_ns;
        json["out_of_time"] = result->out_of_time;
        json["fault_count"] = result->fault_count;
        json["faults_known"] = result->faults_known;
        json["faults"] = Json::array();
        for (const bpf::Fault& fault : result->faults) json["faults"].push_back(to_json(fault));
    } else {
        json["error"] = {{"code", result.error().code()}, {"message", result.error().message()}};
    }
    if (!command.context_file.empty()) json["context"] = hex(ready.context);
    return json;
}

/// A fault's lines, each escaped and indented.
void print_fault(const bpf::Fault& fault) {
    const std::string text = to_text(fault);
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        fmt::print("  {}\n", escaped(std::string_view{text}.substr(begin, end - begin)));
        begin = end + 1;
    }
}

void print_text(const RunCommand& command, const Ready& ready, const bpf::RunResult& result) {
    fmt::print("program   {} ({})\n", escaped(ready.program->name()), bpf::name_of(ready.program->type()));
    fmt::print("returned  {}\n", result.return_value);
    fmt::print("time      {:.3f} ms{}\n", static_cast<double>(result.duration_ns) / 1e6,
               result.out_of_time ? ": over the budget, loops were ended (--budget-ms gives more)" : "");
    if (!command.context_file.empty()) {
        const std::span<const std::byte> bytes{ready.context};
        const auto shown = bytes.first(std::min(bytes.size(), k_context_bytes_shown));
        fmt::print("context   {} bytes: {}{}\n", bytes.size(), hex(shown), shown.size() < bytes.size() ? "…" : "");
    }
    fmt::print("faults    {}{}\n", result.fault_count, result.faults_known ? "" : " or more: not all are known");
    if (result.faults.size() < result.fault_count) fmt::print("  the last {}:\n", result.faults.size());
    for (const bpf::Fault& fault : result.faults) print_fault(fault);
}

/// The first line is the error, the others are the verifier's log as it is.
int report_with_log(const Error& error) {
    std::string_view text = error.message();
    const std::size_t end = std::min(text.find('\n'), text.size());
    const int status = report(k_bad_input, {error.code(), std::string{text.substr(0, end)}});
    for (text.remove_prefix(end); !text.empty();) {
        text.remove_prefix(1);
        const std::string_view line = text.substr(0, text.find('\n'));
        fmt::print(stderr, "{}\n", escaped(line));
        text.remove_prefix(line.size());
    }
    return status;
}

}  // namespace

int run_program(const RunCommand& command) {
    Result<Ready> ready = prepare(command);
    if (!ready) return command.verbose ? report_with_log(ready.error()) : report(k_bad_input, ready.error());

    bpf::RunOptions options;
    options.budget_ns = command.budget_ms * 1'000'000;
    options.measure_time = true;
    const Result<bpf::RunResult> result = ready->program->run(ready->context, options);
    // What cannot be run here is the object's matter; everything else happened in the program.
    if (!result && result.error().code() == ENOTSUP) return report(k_bad_input, result.error().in(command.file));
    if (command.json) {
        print_json(to_json(command, *ready, result));
    } else if (result) {
        print_text(command, *ready, *result);
    }
    return result ? k_ran : report(k_program_error, result.error().in(command.file));
}

}  // namespace harena::tool
