// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "harena/bpf/engine.hpp"
#include "tests/differential/cases.hpp"

namespace harena::bpf::differential {

/// Everything that a case left behind, so that equal means equal: results, contexts, faults, all bytes of present arena
/// pages, global variables, maps.
[[nodiscard]] nlohmann::json run_case(Engine& engine, const Case& one);

}  // namespace harena::bpf::differential
