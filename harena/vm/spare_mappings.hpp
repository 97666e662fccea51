// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "harena/base/result.hpp"

namespace harena {

/// A few mappings that serve nothing. At the limit of mappings (vm.max_map_count) the kernel refuses any mmap, one that
/// replaces many mappings by one as well; who gives these up can make it all the same. Not thread-safe.
class SpareMappings {
public:
    SpareMappings() = default;
    SpareMappings(const SpareMappings&) = delete;
    SpareMappings& operator=(const SpareMappings&) = delete;
    ~SpareMappings() { (void)give_up(); }

    /// Makes them, unless they are there. Errors: ENOMEM (mappings).
    Result<void> make();
    /// Whether there were any: the process has room for as many others now.
    bool give_up() noexcept;

private:
    // Inaccessible pages with readable ones between them: 7 mappings.
    static constexpr std::size_t k_pages = 7;

    std::byte* base_ = nullptr;
};

}  // namespace harena
