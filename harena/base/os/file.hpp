// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/base/os/sys_result.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace harena::os {

/// A file's bytes, whole. Errors: that of open or read; EISDIR for a folder. Thread-safe.
[[nodiscard]] SysResult<std::vector<std::byte>> read_file(const std::string& path);

/// Creates or replaces a file. Thread-safe.
SysResult<void> write_file(const std::string& path, std::span<const std::byte> bytes);

}  // namespace harena::os
