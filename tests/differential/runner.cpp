// SPDX-License-Identifier: Apache-2.0
// Runs all cases of a set in one engine and writes what they left behind: `runner ENGINE SET FILE`.
// A process of its own, because two arenas cannot have one address in one process.
#include <cstdio>
#include <fstream>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "harena/kernel/kernel_engine.hpp"
#include "tests/differential/cases.hpp"
#include "tests/differential/run_case.hpp"

namespace {

constexpr int k_skip = 77;

int run(std::string_view engine_name, std::string_view set, const char* file) {
    using namespace harena;
    const bool in_kernel = engine_name == "kernel";
    if (in_kernel) {
        if (const auto tried = kernel::try_engine(); !tried) {
            fmt::print("{}\n", tried.error().message());
            return k_skip;
        }
    }
    bpf::Engine& engine = in_kernel ? kernel::engine() : bpf::Engine::process();
    nlohmann::json results = nlohmann::json::array();
    for (const bpf::differential::Case& one : bpf::differential::cases_of(set)) {
        // The last line says which case it was, should this process die.
        if (std::getenv("HARENA_DIFFERENTIAL_TRACE") != nullptr) fmt::print(stderr, "{}\n", one.name);
        results.push_back(run_case(engine, one));
    }
    std::ofstream out{file, std::ios::binary};
    nlohmann::json::to_cbor(results, out);
    out.close();
    return out ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 4) return run(argv[1], argv[2], argv[3]);
    fmt::print(stderr, "usage: {} process|kernel SET FILE\n", argv[0]);
    return 2;
}
