// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// The file in which `perf report` looks for names of text that is in no object file: /tmp/perf-PID.map, a line a
/// function. Other generators of code in the process may append to the same file. It stays when the process ends: perf
/// reads it then. Source: Linux, tools/perf/Documentation/jit-interface.txt.
class PerfMap {
public:
    /// Creates the file, or opens it for appending. Errors: EEXIST (it is not a file of this user's alone: a link,
    /// somebody else's), those of open.
    [[nodiscard]] static Result<PerfMap> open();

    /// Line breaks and the like in a name become question marks. Errors: EFBIG (RLIMIT_FSIZE), those of write; ENOMEM.
    Result<void> add(std::uint64_t address, std::uint64_t bytes, std::string_view name);

private:
    explicit PerfMap(os::FileDescriptor file) noexcept : file_{std::move(file)} {}
    os::FileDescriptor file_;
};

}  // namespace harena
