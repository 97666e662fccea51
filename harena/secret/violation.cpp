// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/violation.hpp"

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace harena {

namespace {

std::string_view text_of(Violation violation) noexcept {
    switch (violation) {
        case Violation::double_free:
            return "double free";
        case Violation::not_allocated:
            return "free of what is not allocated here";
        case Violation::overrun:
            return "overrun: the bytes after it were overwritten";
        case Violation::underrun:
            return "underrun: the bytes before it were overwritten, or those after the secret before it";
        case Violation::written_after_free:
            return "write after free: it is free, and was not zero any more";
        case Violation::record_overwritten:
            return "its record, or the bytes before it, were overwritten";
    }
    std::unreachable();
}

}  // namespace

void stop_after(Violation violation, const void* secret, std::size_t bytes) noexcept {
    if (bytes == 0)
        fmt::print(stderr, "harena: secret at {}: {}\n", secret, text_of(violation));
    else
        fmt::print(stderr, "harena: secret of {} bytes at {}: {}\n", bytes, secret, text_of(violation));
    std::abort();
}

}  // namespace harena
