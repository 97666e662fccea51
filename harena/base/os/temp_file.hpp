// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "harena/base/os/sys_result.hpp"

namespace harena::os {

/// An empty file of its own in $TMPDIR or /tmp, readable by this user only, and removed with this object.
class TempFile {
public:
    /// A file whose name ends in `suffix`. Errors: those of open.
    [[nodiscard]] static SysResult<TempFile> create(std::string_view suffix);
    TempFile(TempFile&& other) noexcept : path_{std::exchange(other.path_, {})} {}
    TempFile& operator=(TempFile&& other) noexcept {
        std::swap(path_, other.path_);
        return *this;
    }
    TempFile(const TempFile&) = delete;
    TempFile& operator=(const TempFile&) = delete;
    ~TempFile();

    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    explicit TempFile(std::string path) noexcept : path_{std::move(path)} {}

    std::string path_;  // empty after a move
};

}  // namespace harena::os
