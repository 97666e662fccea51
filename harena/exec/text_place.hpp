// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string_view>
#include <variant>

#include "harena/base/result.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {

/// Where text goes, and who asks. Text must outlive the call only.
struct TextPlaceOptions {
    /// A multiple of 2 MiB, at most 2 GiB.
    std::uint64_t bytes = 0;
    bool near_program = false;
    VmSpace* space = nullptr;
    std::string_view name = {};
    std::source_location where = std::source_location::current();
};

/// Reserved addresses for text, an area of a `VmSpace` marked `exec`: a window of the process's space or, with `space`,
/// an area inside of that. A multiple of 2 MiB; nothing is mapped there.
class TextPlace {
public:
    /// Errors: EINVAL (a space from one end of which to the other is more than 2 GiB), EADDRNOTAVAIL (no gap near the
    /// program), ENOMEM (names the limit where there is one), EOWNERDEAD.
    [[nodiscard]] static Result<TextPlace> reserve(const TextPlaceOptions& options);
    TextPlace(TextPlace&& other) noexcept;
    TextPlace& operator=(TextPlace&&) = delete;
    TextPlace(const TextPlace&) = delete;
    TextPlace& operator=(const TextPlace&) = delete;
    /// Gives the addresses back, with all that is mapped there. Good in a child after fork, too.
    ~TextPlace();

    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    /// Asked for how many pages are mapped, until null is set.
    void count_pages_with(const VmPageCounter* counter) noexcept;

private:
    struct Inside {
        VmSpace* space;
        VmArea* area;
    };
    using Where = std::variant<Inside, VmWindow>;

    TextPlace(std::byte* base, std::uint64_t bytes, Where where) noexcept
        : base_{base}, bytes_{bytes}, where_{std::move(where)} {}
    [[nodiscard]] static Result<TextPlace> reserve_inside(const TextPlaceOptions& options);
    [[nodiscard]] static Result<TextPlace> reserve_near_program(const TextPlaceOptions& options);

    std::byte* base_;
    std::uint64_t bytes_;
    Where where_;
    ForkGuard fork_guard_;
};

}  // namespace harena
