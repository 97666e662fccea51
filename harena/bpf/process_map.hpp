// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "harena/base/fork.hpp"
#include "harena/bpf/map.hpp"

namespace harena::bpf {

struct Image;
struct Function;

/// A map in this process, for host and programs. Programs get pointers to values, which therefore stay where they are
/// as long as the map lives, and copy keys and values in and out themselves.
class ProcessMap : public Map {
public:
    using Map::Map;

    static constexpr std::uint32_t k_max_key_bytes = 512;  // source: Linux, MAX_BPF_STACK

    /// Makes the map of a definition that is no arena. Errors: EINVAL (sizes, flags), E2BIG, ENOMEM, ENOTSUP (the
    /// type).
    [[nodiscard]] static Result<std::shared_ptr<ProcessMap>> create(const MapDefinition& definition);

    /// The value of a key, or nullptr. `key` has the size of the definition, also below.
    [[nodiscard]] virtual std::byte* find(const std::byte* key) noexcept = 0;
    /// 0 or a negative errno value, as the helpers of these names return it. `flags` is untrusted.
    virtual int update_elem(const std::byte* key, const std::byte* value, std::uint64_t flags) noexcept = 0;
    virtual int delete_elem(const std::byte* key) noexcept = 0;

    /// Copies the key of entry `position` or of the first one after it to `key`, moves `position` behind it, and
    /// returns its value; nullptr at the end. What is added or deleted meanwhile may be seen or not.
    [[nodiscard]] virtual std::byte* next(std::uint64_t& position, std::byte* key) noexcept = 0;

    /// Where `next` goes on behind the entry of `key`; nullopt if there is none.
    [[nodiscard]] virtual std::optional<std::uint64_t> position_behind(const std::byte* key) noexcept = 0;

    /// Whether helpers may look up, update, delete and iterate.
    [[nodiscard]] virtual bool has_elements() const noexcept { return true; }

    // The host's calls, on top of those above.
    [[nodiscard]] Result<std::vector<std::byte>> lookup(std::span<const std::byte> key) override;
    Result<void> update(std::span<const std::byte> key, std::span<const std::byte> value, UpdateMode mode) override;
    Result<void> erase(std::span<const std::byte> key) override;
    [[nodiscard]] Result<std::vector<std::byte>> next_key(std::optional<std::span<const std::byte>> key) override;

protected:
    ForkGuard fork_guard_;
};

/// A map of type PROG_ARRAY.
class ProgramArray final : public ProcessMap {
public:
    struct Target {
        std::shared_ptr<const Image> image;
        const Function* function = nullptr;
    };

    using ProcessMap::ProcessMap;

    /// What a tail call to `index` runs; no function if there is none. Thread-safe.
    [[nodiscard]] Target target(std::uint64_t index) const;
    /// Throws std::bad_alloc.
    void set_target(std::uint32_t index, Target target);
    /// The type of the programs it holds, all the same; nullopt while it is empty.
    [[nodiscard]] std::optional<ProgramType> program_type() const;
    /// Forgets all programs: they hold their object's maps, which may hold this one.
    void clear();

    Result<void> set_program(std::uint32_t index, Program& program) override;
    Result<void> erase(std::span<const std::byte> key) override;
    [[nodiscard]] bool has_elements() const noexcept override { return false; }
    [[nodiscard]] std::byte* find(const std::byte* key) noexcept override;
    int update_elem(const std::byte* key, const std::byte* value, std::uint64_t flags) noexcept override;
    int delete_elem(const std::byte* key) noexcept override;
    [[nodiscard]] std::byte* next(std::uint64_t& position, std::byte* key) noexcept override;
    [[nodiscard]] std::optional<std::uint64_t> position_behind(const std::byte*) noexcept override {
        return std::nullopt;
    }

private:
    mutable std::mutex mutex_;                 // protects targets_; a leaf of the lock order
    std::map<std::uint32_t, Target> targets_;  // those that there are: `max_entries` costs no memory
};

/// The arena as a map: it has no elements.
class ArenaMap final : public ProcessMap {
public:
    using ProcessMap::ProcessMap;

    [[nodiscard]] bool has_elements() const noexcept override { return false; }
    [[nodiscard]] Result<std::vector<std::byte>> lookup(std::span<const std::byte> key) override;
    Result<void> update(std::span<const std::byte> key, std::span<const std::byte> value, UpdateMode mode) override;
    Result<void> erase(std::span<const std::byte> key) override;
    [[nodiscard]] Result<std::vector<std::byte>> next_key(std::optional<std::span<const std::byte>> key) override;
    [[nodiscard]] std::byte* find(const std::byte*) noexcept override { return nullptr; }
    int update_elem(const std::byte*, const std::byte*, std::uint64_t) noexcept override;
    int delete_elem(const std::byte*) noexcept override;
    [[nodiscard]] std::byte* next(std::uint64_t&, std::byte*) noexcept override { return nullptr; }
    [[nodiscard]] std::optional<std::uint64_t> position_behind(const std::byte*) noexcept override {
        return std::nullopt;
    }
};

}  // namespace harena::bpf
