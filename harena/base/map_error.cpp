// SPDX-License-Identifier: Apache-2.0
#include "harena/base/map_error.hpp"

#include <sys/resource.h>

#include <cerrno>
#include <new>
#include <string>

#include "harena/base/os/memory.hpp"

namespace harena {

namespace {

std::string value_of(int resource) {
    const auto limit = os::getrlimit(resource);
    if (!limit) return "not known";
    return *limit == RLIM_INFINITY ? "unlimited" : std::to_string(*limit);
}

}  // namespace

std::unexpected<Error> map_error(os::SysError error, std::string_view what) try {
    if (error.code == ENOMEM)
        return fail(
            ENOMEM,
            "{}: no memory for it, or the process has as many mappings as vm.max_map_count allows, or as many bytes "
            "as RLIMIT_AS ({})",
            what, value_of(RLIMIT_AS));
    if (error.code == EAGAIN)
        return fail(EAGAIN, "{}: the process locks its memory (mlockall) and RLIMIT_MEMLOCK is {}", what,
                    value_of(RLIMIT_MEMLOCK));
    return os::fail_with(error, what);
} catch (const std::bad_alloc&) {
    return fail(error.code, "{}", what);
}

Result<void> check_file_size(std::uint64_t bytes, std::string_view what) {
    const auto limit = os::getrlimit(RLIMIT_FSIZE);
    if (limit && *limit < bytes)
        return fail(EFBIG, "{} needs {} bytes and the limit RLIMIT_FSIZE is {}; raise it (ulimit -f)", what, bytes,
                    *limit);
    return {};
}

}  // namespace harena
