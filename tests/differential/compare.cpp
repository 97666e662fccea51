// SPDX-License-Identifier: Apache-2.0
#include "tests/differential/compare.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "harena/base/page_math.hpp"

namespace harena::bpf::differential {

namespace {

using Json = nlohmann::json;
using Bytes = std::vector<std::uint8_t>;
using Differences = std::vector<std::string>;

std::uint64_t word_at(const Bytes& bytes, std::size_t at) {
    std::uint64_t word = 0;
    std::memcpy(&word, &bytes[at], std::min(sizeof word, bytes.size() - at));
    return word;
}

/// The first words that differ, each as "<what> <number>: process 1, kernel 2".
void compare_bytes(Differences& differences, std::string_view what, const Bytes& process, const Bytes& kernel) {
    if (process.size() != kernel.size()) {
        differences.push_back(fmt::format("{}: process {} bytes, kernel {}", what, process.size(), kernel.size()));
        return;
    }
    for (std::size_t at = 0; at < process.size(); at += 8)
        if (word_at(process, at) != word_at(kernel, at))
            differences.push_back(fmt::format("{} {}: process {:#x}, kernel {:#x}", what, at / 8, word_at(process, at),
                                              word_at(kernel, at)));
}

std::string describe(const Json& fault) {
    return fmt::format("{} {:#x}", fault["write"].get<bool>() ? "WRITE" : "READ",
                       fault["address"].get<std::uint64_t>());
}

void compare_faults(Differences& differences, const Json& process, const Json& kernel) {
    for (std::size_t i = 0; i < std::min(process.size(), kernel.size()); ++i) {
        const bool same_access = process[i]["write"] == kernel[i]["write"];
        const auto a = process[i]["address"].get<std::uint64_t>();
        const auto b = kernel[i]["address"].get<std::uint64_t>();
        // Objects made by hand have no lines, and the kernel then does not tell where.
        const bool knows_place = !kernel[i]["function"].get<std::string>().empty();
        if (knows_place && process[i]["place"] != kernel[i]["place"])
            differences.push_back(fmt::format("place {}: process {}, kernel {}", i,
                                              process[i]["place"].get<std::string>(),
                                              kernel[i]["place"].get<std::string>()));
        if (same_access && a == b) continue;
        const bool straddles = same_access && b > a && b - a < 8 && is_aligned(b, k_page_size);
        differences.push_back(fmt::format("{} {}: process {}, kernel {}", straddles ? "straddle" : "fault", i,
                                          describe(process[i]), describe(kernel[i])));
    }
}

void compare_run(Differences& differences, const Json& process, const Json& kernel) {
    const auto what = [](const Json& run) {
        return run.contains("error") ? "error: " + run["error"]["message"].get<std::string>()
                                     : fmt::format("{}", run["value"].get<std::uint64_t>());
    };
    if (process.contains("error") && kernel.contains("error") && process["error"]["code"] == kernel["error"]["code"])
        return;
    if (process.contains("error") || kernel.contains("error")) {
        differences.push_back(fmt::format("run: process {}, kernel {}", what(process), what(kernel)));
        return;
    }
    if (process["value"] != kernel["value"])
        differences.push_back(fmt::format("value: process {}, kernel {}", what(process), what(kernel)));
    compare_bytes(differences, "word", process["context"].get_binary(), kernel["context"].get_binary());
    if (!kernel["faults_known"].get<bool>()) differences.push_back("faults: kernel does not know how many");
    if (process["fault_count"] != kernel["fault_count"])
        differences.push_back(fmt::format("faults: process {}, kernel {}", process["fault_count"].get<std::uint64_t>(),
                                          kernel["fault_count"].get<std::uint64_t>()));
    compare_faults(differences, process["faults"], kernel["faults"]);
}

/// Of two tables of bytes, such as pages by their numbers.
void compare_tables(Differences& differences, std::string_view what, const Json& process, const Json& kernel) {
    for (auto entry = process.begin(); entry != process.end(); ++entry) {
        if (!kernel.contains(entry.key()))
            differences.push_back(fmt::format("{} {}: process only", what, entry.key()));
        else
            compare_bytes(differences, fmt::format("{} {}, word", what, entry.key()), entry.value().get_binary(),
                          kernel[entry.key()].get_binary());
    }
    for (auto entry = kernel.begin(); entry != kernel.end(); ++entry)
        if (!process.contains(entry.key())) differences.push_back(fmt::format("{} {}: kernel only", what, entry.key()));
}

}  // namespace

Comparison compare(const Json& process, const Json& kernel) {
    Comparison out;
    const auto message = [](const Json& one, const char* error) { return one[error]["message"].get<std::string>(); };
    const auto code = [](const Json& one) { return one["load_error"]["code"].get<int>(); };
    const bool refused_here = process.contains("load_error");
    const bool refused_there = kernel.contains("load_error");
    out.refused = refused_here && refused_there;
    if (refused_here != refused_there)
        out.differences.push_back(refused_here ? "load: process " + message(process, "load_error")
                                               : "load: kernel " + message(kernel, "load_error"));
    if (out.refused && code(process) != code(kernel))
        out.differences.push_back(fmt::format("refusal: process {} {}, kernel {} {}", code(process),
                                              message(process, "load_error"), code(kernel),
                                              message(kernel, "load_error")));
    if (process.contains("refusal") && (!refused_here || code(process) != process["refusal"].get<int>()))
        out.differences.push_back(fmt::format("refusal: process not {}", process["refusal"].get<int>()));
    if (refused_here || refused_there) return out;
    for (const auto& [engine, one] : {std::pair{"process", &process}, {"kernel", &kernel}})
        if (one->contains("prepare_error"))
            out.differences.push_back(fmt::format("prepare: {} {}", engine, message(*one, "prepare_error")));
    if (process.contains("prepare_error") || kernel.contains("prepare_error")) return out;
    const auto ended_well = [](const Json& run) { return !run.contains("error"); };
    out.ran = !process["runs"].empty() && std::ranges::all_of(process["runs"], ended_well) &&
              std::ranges::all_of(kernel["runs"], ended_well);

    const auto tables = [](const Json& one, const char* name) {
        return one.contains(name) ? one[name] : Json(Json::value_t::object);
    };
    if (process["runs"].size() != kernel["runs"].size()) out.differences.push_back("runs: not as many");
    for (std::size_t i = 0; i < std::min(process["runs"].size(), kernel["runs"].size()); ++i)
        compare_run(out.differences, process["runs"][i], kernel["runs"][i]);
    if (process.contains("pages") && (process["pages"].is_null() || kernel["pages"].is_null()))
        out.differences.push_back("pages: not known which are present");
    else
        compare_tables(out.differences, "page", tables(process, "pages"), tables(kernel, "pages"));
    compare_tables(out.differences, "section", tables(process, "data"), tables(kernel, "data"));
    const Json maps = tables(process, "maps");
    const Json others = tables(kernel, "maps");
    std::set<std::string> names;
    for (const Json* const both : {&maps, &others})
        for (auto map = both->begin(); map != both->end(); ++map) names.insert(map.key());
    for (const std::string& name : names)
        compare_tables(out.differences, fmt::format("map {}", name), tables(maps, name.c_str()),
                       tables(others, name.c_str()));
    return out;
}

}  // namespace harena::bpf::differential
