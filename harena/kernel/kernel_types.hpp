// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "harena/base/result.hpp"

struct btf;

namespace harena::kernel {

/// What the running kernel says about its own functions and structures (/sys/kernel/btf/vmlinux). Immutable.
class KernelTypes {
public:
    /// Read once a process. Errors: ENOENT (a kernel built without CONFIG_DEBUG_INFO_BTF), those of reading the file,
    /// EINVAL. Thread-safe.
    [[nodiscard]] static Result<const KernelTypes*> get();

    /// The number of a function, such as a kfunc.
    [[nodiscard]] std::optional<std::uint32_t> function(const std::string& name) const noexcept;
    [[nodiscard]] std::optional<std::uint32_t> variable(const std::string& name) const noexcept;
    /// Where a member of a structure is, in bytes. Nothing if there is none, or if it is a bit field.
    [[nodiscard]] std::optional<std::uint32_t> member_offset(const std::string& structure,
                                                             const std::string& member) const noexcept;

private:
    struct Free {
        void operator()(::btf* types) const noexcept;
    };
    explicit KernelTypes(std::unique_ptr<::btf, Free> types) noexcept : btf_{std::move(types)} {}
    [[nodiscard]] static Result<KernelTypes> read();
    [[nodiscard]] std::optional<std::uint32_t> find(const std::string& name, std::uint32_t kind) const noexcept;

    std::unique_ptr<::btf, Free> btf_;
};

}  // namespace harena::kernel
