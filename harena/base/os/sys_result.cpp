// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/sys_result.hpp"

#include <unistd.h>

#include <cstring>
#include <new>

namespace harena::os {

std::string describe(SysError error) {
    const char* const name = ::strerrorname_np(error.code);
    const char* const text = ::strerrordesc_np(error.code);
    if (name == nullptr || text == nullptr) return fmt::format("error {}", error.code);
    return fmt::format("{}, {}", name, text);
}

std::unexpected<Error> fail_with(SysError error, std::string_view what) {
    try {
        return fail(error.code, "{}: {}", what, describe(error));
    } catch (const std::bad_alloc&) {
        return fail(error.code, "{}", what);
    }
}

void FileDescriptor::reset() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

}  // namespace harena::os
