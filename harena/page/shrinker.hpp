// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/base/result.hpp"
#include "harena/base/types.hpp"

namespace harena {

/// Something that keeps free pages, and can do with fewer when memory is short. Thread-safe. Kernel: shrinker.
class Shrinker {
public:
    Shrinker() = default;
    Shrinker(const Shrinker&) = delete;
    Shrinker& operator=(const Shrinker&) = delete;
    virtual ~Shrinker() = default;

    /// How many pages it could give now, about.
    [[nodiscard]] virtual PageCount count() const = 0;
    /// Gives `wanted` pages, or as many as it has, or a few more where they come in blocks; looks at no more than that
    /// takes. Returns how many. An error only if a system call failed before the first.
    virtual Result<PageCount> shrink(PageCount wanted) = 0;
};

}  // namespace harena
