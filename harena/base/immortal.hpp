// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace harena {

/// A static object that is never destroyed: signal handlers and other threads may need it until the process ends.
template <typename T>
union Immortal {
    constexpr Immortal() noexcept : value{} {}
    Immortal(const Immortal&) = delete;
    Immortal& operator=(const Immortal&) = delete;
    ~Immortal() {}  // NOLINT(modernize-use-equals-default): a defaulted one would be deleted

    T value;
};

}  // namespace harena
