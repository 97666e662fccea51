// SPDX-License-Identifier: Apache-2.0
#include "harena/base/result.hpp"

#include <new>

namespace harena {

std::unexpected<Error> detail::fail(int code, fmt::string_view format, fmt::format_args args) {
    try {
        return std::unexpected<Error>{Error{code, fmt::vformat(format, args)}};
    } catch (const std::bad_alloc&) {
        return std::unexpected<Error>{Error{code, "out of memory"}};  // short enough to be kept in the string itself
    }
}

}  // namespace harena
