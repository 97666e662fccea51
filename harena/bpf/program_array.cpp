// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstring>

#include "harena/bpf/image.hpp"
#include "harena/bpf/process_map.hpp"
#include "harena/bpf/process_program.hpp"

namespace harena::bpf {

ProgramArray::ProgramArray(const MapDefinition& definition) : ProcessMap{definition}, targets_(definition.max_entries) {}

ProgramArray::Target ProgramArray::target(std::uint64_t index) const {
    const std::lock_guard lock{mutex_};
    return index < targets_.size() ? targets_[index] : Target{};
}

void ProgramArray::set_target(std::uint32_t index, Target target) {
    const std::lock_guard lock{mutex_};
    std::swap(targets_[index], target);
}

void ProgramArray::clear() {
    std::vector<Target> dropped(targets_.size());
    const std::lock_guard lock{mutex_};
    targets_.swap(dropped);
}

Result<void> ProgramArray::set_program(std::uint32_t index, Program& program) {
    HARENA_CHECK_OK(fork_guard_.check("the map"));
    if (index >= definition().max_entries)
        return fail(E2BIG, "map '{}': index {} is not below max_entries {}", name(), index, definition().max_entries);
    auto* const ours = dynamic_cast<ProcessProgram*>(&program);
    if (ours == nullptr) return fail(EINVAL, "map '{}': program '{}' is of another engine", name(), program.name());
    set_target(index, ours->target());
    return {};
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
