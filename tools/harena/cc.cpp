// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/cc.hpp"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "harena/base/os/process.hpp"
#include "tools/harena/output.hpp"

namespace harena::tool {

namespace {

std::string default_output(const std::string& source) {
    return std::filesystem::path{source}.filename().replace_extension(".o").string();
}

}  // namespace

std::string find_bpf_clang() {
    if (const char* const chosen = std::getenv("HARENA_CLANG"); chosen != nullptr && *chosen != '\0') return chosen;
    // The one that the project is tested with first; a plain `clang` may be too old, which <harena/arena.h> reports.
    return os::find_program({"clang-19", "clang-22", "clang-21", "clang-20", "clang"});
}

std::string bpf_include_folder() {
    const std::filesystem::path tool = os::executable_path();
    const std::filesystem::path installed = (tool.parent_path() / HARENA_INSTALLED_HEADERS).lexically_normal();
    std::error_code ignored;
    return std::filesystem::is_directory(installed, ignored) ? installed.string() : HARENA_SOURCE_HEADERS;
}

Result<void> compile(const CcOptions& options) {
    std::error_code error;
    const auto status = std::filesystem::status(options.source, error);
    if (!std::filesystem::exists(status)) return fail(ENOENT, "{}: no such file", options.source);
    if (std::filesystem::is_directory(status)) return fail(EISDIR, "{}: is a folder", options.source);

    const std::string output = options.output.empty() ? default_output(options.source) : options.output;
    if (std::filesystem::equivalent(options.source, output, error))
        return fail(EINVAL, "{}: the object would replace its source", options.source);

    const std::string clang = find_bpf_clang();
    if (clang.empty())
        return fail(ENOENT, "{}: no clang to compile it with: install clang-19, or set HARENA_CLANG", options.source);
    std::vector<std::string> command{clang, "-target", "bpf", "-mcpu=v4",           "-O2",
                                     "-g",  "-Wall",   "-I",  bpf_include_folder(), "-iquote",
                                     "."};
    // <asm/types.h> is in the multiarch folder, which clang does not search for the BPF target.
    if (const std::string asm_headers = HARENA_ASM_HEADERS; !asm_headers.empty())
        command.insert(command.end(), {"-idirafter", asm_headers});
    command.insert(command.end(), options.flags.begin(), options.flags.end());
    command.insert(command.end(), {"-o", output, "-c"});
    // A file name that begins with '-' is no flag.
    command.push_back(options.source.starts_with('-') ? "./" + options.source : options.source);

    const auto result = os::run_program(command);
    if (!result)
        return fail(result.error().code, "{}: cannot run {}: {}", options.source, clang, os::describe(result.error()));
    if (*result != 0)
        return fail(EINVAL, "{}: does not compile ({} ended with status {})", options.source, clang, *result);
    return {};
}

int run_cc(const CcOptions& options) {
    const Result<void> compiled = compile(options);
    return compiled ? k_ran : report(k_bad_input, compiled.error());
}

}  // namespace harena::tool
