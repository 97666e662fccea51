// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "harena/bpf/image.hpp"
#include "harena/bpf/process_map.hpp"
#include "harena/bpf/process_program.hpp"

namespace harena::bpf {

ProgramArray::Target ProgramArray::target(std::uint64_t index) const {
    if (index >= definition().max_entries) return {};
    const std::lock_guard lock{mutex_};
    const auto found = targets_.find(static_cast<std::uint32_t>(index));
    return found == targets_.end() ? Target{} : found->second;
}

void ProgramArray::set_target(std::uint32_t index, Target target) {
    decltype(targets_)::node_type dropped;  // after the lock: it may be the last to hold its object
    const std::lock_guard lock{mutex_};
    if (target.function == nullptr) {
        dropped = targets_.extract(index);
    } else {
        std::swap(targets_[index], target);
    }
}

std::optional<ProgramType> ProgramArray::program_type() const {
    const std::lock_guard lock{mutex_};
    return targets_.empty() ? std::nullopt : std::optional{targets_.begin()->second.function->type};
}

void ProgramArray::clear() {
    // In a child after fork a thread of the parent may hold the lock for ever: what is there is left alone.
    if (fork_guard_.owner_dead()) return;
    decltype(targets_) dropped;
    const std::lock_guard lock{mutex_};
    targets_.swap(dropped);
}

Result<void> ProgramArray::set_program(std::uint32_t index, Program& program) try {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    if (index >= definition().max_entries)
        return fail(E2BIG, "map '{}': index {} is not below max_entries {}", name(), index, definition().max_entries);
    auto* const ours = dynamic_cast<ProcessProgram*>(&program);
    if (ours == nullptr) return fail(EINVAL, "map '{}': program '{}' is of another engine", name(), program.name());
    HARENA_CHECK_OK(ours->check_owner());
    if (const auto type = program_type(); type && *type != program.type())
        return fail(EINVAL, "map '{}' holds programs of type {}, and '{}' is of type {}", name(), name_of(*type),
                    program.name(), name_of(program.type()));
    set_target(index, ours->target());
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map '{}': no memory for index {}", name(), index);
}

Result<void> ProgramArray::erase(std::span<const std::byte> key) {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    HARENA_CHECK_OK(check_key(key));
    std::uint32_t index = 0;
    std::memcpy(&index, key.data(), sizeof index);
    if (target(index).function == nullptr) return fail(ENOENT, "map '{}': no program at index {}", name(), index);
    set_target(index, {});
    return {};
}

std::byte* ProgramArray::find(const std::byte*) noexcept { return nullptr; }
int ProgramArray::update_elem(const std::byte*, const std::byte*, std::uint64_t) noexcept { return -EOPNOTSUPP; }
int ProgramArray::delete_elem(const std::byte*) noexcept { return -EOPNOTSUPP; }
std::byte* ProgramArray::next(std::uint64_t&, std::byte*) noexcept { return nullptr; }

}  // namespace harena::bpf
