// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace harena::tool {

struct InspectCommand {
    /// A process ID, or "self".
    std::string pid;
    /// Where the picture goes; empty: no picture.
    std::string svg_file;
    bool json = false;
};

/// `harena inspect`. Returns the exit status.
int run_inspect(const InspectCommand& command);

}  // namespace harena::tool
