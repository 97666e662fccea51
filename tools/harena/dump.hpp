// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace harena::tool {

struct DumpCommand {
    std::string file;
    bool json = false;
};

/// `harena dump`. Returns the exit status.
int run_dump(const DumpCommand& command);

}  // namespace harena::tool
