// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <utility>

#include "harena/base/os/sys_result.hpp"
#include "harena/base/result.hpp"

namespace harena {

/// The `Error` of a failed mmap, by the name of the limit that is in the way: the number of mappings and RLIMIT_AS, or
/// RLIMIT_MEMLOCK if the process locks all that it maps (mlockall). Throws nothing.
[[nodiscard]] std::unexpected<Error> map_error(os::SysError error, std::string_view what);
template <typename... Args>
    requires(sizeof...(Args) > 0)
[[nodiscard]] std::unexpected<Error> map_error(os::SysError error, fmt::format_string<Args...> what, Args&&... args) {
    const auto sentence = fail(error.code, what, std::forward<Args>(args)...);
    return map_error(error, sentence.error().message());
}

/// EFBIG if a file of `bytes` bytes is above RLIMIT_FSIZE: a write there would kill the process.
[[nodiscard]] Result<void> check_file_size(std::uint64_t bytes, std::string_view what);

}  // namespace harena
