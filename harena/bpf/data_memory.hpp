// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "harena/base/result.hpp"
#include "harena/bpf/engine.hpp"
#include "harena/bpf/object_file.hpp"

namespace harena::bpf {

/// Memory for an object's global variables with their initial contents, as `ObjectFile::data`: whole pages of a mapping
/// of their own for each section, so that an engine may map something else over them in place (the kernel's does). None
/// for the arena's. Errors: ENOMEM. Thread-safe.
[[nodiscard]] Result<std::vector<DataMemory>> make_data_memory(const ObjectFile& file);

}  // namespace harena::bpf
