// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/harena/process_view.hpp"

namespace harena::tool {

/// A picture (SVG) of a process: its addresses from low to high, and the pages of its arenas. Needs nothing but what is
/// in it: no scripts, no fonts, no files. Its size is bounded, whatever the view has.
[[nodiscard]] std::string picture_of(const ProcessView& view);

}  // namespace harena::tool
