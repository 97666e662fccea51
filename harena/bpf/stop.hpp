// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>

#include <fmt/format.h>

namespace harena::bpf {

/// Thrown inside the interpreter to end a run, and caught by it: never crosses the API.
struct Stop {
    int code;
    std::string message;  // without the place, which is added where it is caught
};

template <typename... Args>
[[noreturn]] void stop(int code, fmt::format_string<Args...> format, Args&&... args) {
    throw Stop{code, fmt::format(format, std::forward<Args>(args)...)};
}

}  // namespace harena::bpf
