// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <expected>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace harena {

/// What went wrong: an errno value for programs, and one sentence for people that names what was wrong and what to do.
class [[nodiscard]] Error {
public:
    Error(int code, std::string message) : code_{code}, message_{std::move(message)} {}

    /// A positive errno value, such as EINVAL.
    [[nodiscard]] int code() const noexcept { return code_; }
    [[nodiscard]] const std::string& message() const noexcept { return message_; }

    /// The same error, with where it happened in front: "context: message".
    [[nodiscard]] Error in(std::string_view context) const { return {code_, fmt::format("{}: {}", context, message_)}; }

private:
    int code_;
    std::string message_;
};

/// The value, or why there is none. No exception crosses the API of harena.
template <typename T>
using Result = std::expected<T, Error>;

namespace detail {
[[nodiscard]] std::unexpected<Error> fail(int code, fmt::string_view format, fmt::format_args args);
}

/// Makes the failing side of a `Result`: `return fail(EINVAL, "page_cnt is {}", n);` Throws nothing: where there is no
/// memory for the sentence, it is "out of memory".
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail(int code, fmt::format_string<Args...> format, Args&&... args) {
    return detail::fail(code, format, fmt::make_format_args(args...));
}

/// Passes the error of one result on as that of another type.
[[nodiscard]] inline std::unexpected<Error> pass_on(Error error) { return std::unexpected<Error>{std::move(error)}; }

}  // namespace harena

#define HARENA_CONCAT_INNER(a, b) a##b
#define HARENA_CONCAT(a, b) HARENA_CONCAT_INNER(a, b)
#define HARENA_TRY_INNER(result, declaration, ...)                    \
    auto&& result = (__VA_ARGS__);                                    \
    if (!result) return ::harena::pass_on(std::move(result).error()); \
    declaration = *std::move(result)

/// `HARENA_TRY(auto page, pool.alloc());` declares `page`, or returns the error. A macro, because only a macro can
/// return from its caller; GCC 12's std::expected has no monadic operations.
#define HARENA_TRY(declaration, ...) HARENA_TRY_INNER(HARENA_CONCAT(harena_try_, __COUNTER__), declaration, __VA_ARGS__)

/// `HARENA_CHECK_OK(map.update(key, value));` returns the error of a `Result<void>`, if there is one.
#define HARENA_CHECK_OK(...)                                            \
    do {                                                                \
        if (auto&& harena_result = (__VA_ARGS__); !harena_result)       \
            return ::harena::pass_on(std::move(harena_result).error()); \
    } while (false)
