// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace harena::bpf::differential {

struct Comparison {
    bool refused = false;  // by both engines: only the errnos were compared
    bool ran = false;      // in both engines, and no run ended with an error
    std::vector<std::string> differences;
};

/// What is different between what one case left behind in the engine of the process and in the kernel.
[[nodiscard]] Comparison compare(const nlohmann::json& process, const nlohmann::json& kernel);

}  // namespace harena::bpf::differential
