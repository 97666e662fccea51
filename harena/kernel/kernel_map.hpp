// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "harena/base/fork.hpp"
#include "harena/base/os/sys_result.hpp"
#include "harena/bpf/map.hpp"

namespace harena::kernel {

/// A map in the kernel.
class KernelMap final : public bpf::Map {
public:
    /// Makes the map, with the types of keys and values if there are any (`btf` is -1 if not).
    /// Errors: ENOTSUP (a type of map that the engine does not have, or one to be pinned); those of
    /// bpf(BPF_MAP_CREATE).
    [[nodiscard]] static Result<std::shared_ptr<KernelMap>> create(const bpf::MapDefinition& definition, int btf);
    /// Takes over a map that was made; that of an arena needs no descriptor, since it has no elements.
    KernelMap(bpf::MapDefinition definition, os::FileDescriptor fd) noexcept
        : Map{std::move(definition)}, fd_{std::move(fd)} {}

    [[nodiscard]] int fd() const noexcept { return fd_.get(); }

    [[nodiscard]] Result<std::vector<std::byte>> lookup(std::span<const std::byte> key) override;
    Result<void> update(std::span<const std::byte> key, std::span<const std::byte> value,
                        bpf::UpdateMode mode) override;
    Result<void> erase(std::span<const std::byte> key) override;
    [[nodiscard]] Result<std::vector<std::byte>> next_key(std::optional<std::span<const std::byte>> key) override;
    Result<void> set_program(std::uint32_t index, bpf::Program& program) override;

    Result<void> set_program_fd(std::uint32_t index, int program);

private:
    [[nodiscard]] Result<void> check_use() const;
    [[nodiscard]] Error error(os::SysError error, std::string_view call) const;

    os::FileDescriptor fd_;
    ForkGuard fork_guard_;
};

}  // namespace harena::kernel
