// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "harena/base/os/sys_result.hpp"

namespace harena::os {

/// A file's bytes, whole. Errors: that of open or read; EISDIR for a folder; EFBIG if there are more than `max_bytes`,
/// as in devices without an end. Thread-safe.
[[nodiscard]] SysResult<std::vector<std::byte>> read_file(const std::string& path,
                                                          std::size_t max_bytes = std::size_t{1} << 30);

/// Creates or replaces a file. Thread-safe.
SysResult<void> write_file(const std::string& path, std::span<const std::byte> bytes);

}  // namespace harena::os
