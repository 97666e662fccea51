// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/helper_call.hpp"

#include <algorithm>
#include <cerrno>

#include "harena/arena/nofault.hpp"
#include "harena/base/page_math.hpp"

namespace harena::bpf {

namespace {

// The largest memory argument: what can be copied in about a millisecond, since no safepoint interrupts it.
constexpr std::uint64_t k_max_memory = 4 * k_mib;

}  // namespace

HelperCall::HelperCall(Interpreter& interpreter, const Prototype& prototype, std::span<const Value> registers)
    : interpreter_{interpreter}, prototype_{prototype} {
    std::ranges::copy(registers, values_.begin());
    for (unsigned argument = 0; argument < k_max_arguments; ++argument) {
        const ArgKind kind = prototype_.arguments[argument];
        if (kind == ArgKind::none) continue;
        if (kind == ArgKind::optional_scalar) continue;
        if (values_[argument].kind() == Kind::unset)
            stop(EACCES, "R{} !read_ok: argument {} of {} is not set", argument + 1, argument + 1, prototype_.name);
        check(argument);
    }
}

void HelperCall::wrong_kind(unsigned argument, std::string_view expected) const {
    stop(EACCES, "R{} type={} expected={} (argument {} of {})", argument + 1, name_of(values_[argument].kind()),
         expected, argument + 1, prototype_.name);
}

void HelperCall::check(unsigned argument) {
    Value& value = values_[argument];
    switch (prototype_.arguments[argument]) {
        case ArgKind::none:
        case ArgKind::optional_scalar:
            return;
        case ArgKind::scalar:
        case ArgKind::size:
            return check_scalar(argument);
        case ArgKind::scalar32:
            check_scalar(argument);
            value.bits = static_cast<std::uint32_t>(value.bits);
            return;
        case ArgKind::address:
            if (!is_public(value.kind())) wrong_kind(argument, "scalar or arena");
            return;
        case ArgKind::context:
            if (value.kind() != Kind::context) wrong_kind(argument, "ctx");
            return;
        case ArgKind::map:
        case ArgKind::arena_map:
        case ArgKind::program_array:
            return check_map(argument);
        case ArgKind::map_key:
            return check_input(argument, map_->definition().key_size);
        case ArgKind::map_value:
            return check_input(argument, map_->definition().value_size);
        case ArgKind::input:
            return check_input(argument, size_after(argument));
        case ArgKind::output:
            return check_output(argument, size_after(argument));
        case ArgKind::c_string:
            return check_c_string(argument);
        case ArgKind::callback:
            if (value.kind() != Kind::function) wrong_kind(argument, "func");
            return;
        case ArgKind::callback_context:
            if (value.kind() == Kind::scalar && value.bits == 0) return;
            if (value.kind() != Kind::stack) wrong_kind(argument, "stack or NULL");
            return;
    }
}

void HelperCall::check_scalar(unsigned argument) const {
    if (values_[argument].kind() != Kind::scalar) wrong_kind(argument, "scalar");
}

void HelperCall::check_map(unsigned argument) {
    if (values_[argument].kind() != Kind::map) wrong_kind(argument, "map_ptr");
    map_ = &map(argument);
    const ArgKind kind = prototype_.arguments[argument];
    if (kind == ArgKind::arena_map && map_->definition().type != map_type::arena)
        stop(EACCES, "{} needs the arena, and '{}' is a map of type {}", prototype_.name, map_->name(),
             map_type_name(map_->definition().type));
    if (kind == ArgKind::map && !map_->has_elements())
        stop(EACCES, "cannot pass map_type {} into func {}: '{}' has no elements",
             map_type_name(map_->definition().type), prototype_.name, map_->name());
}

std::uint64_t HelperCall::optional_scalar(unsigned argument) const {
    if (!is_public(values_[argument].kind())) wrong_kind(argument, "scalar or arena");
    return values_[argument].bits;
}

ProcessMap& HelperCall::map(unsigned argument) const noexcept {
    return *reinterpret_cast<ProcessMap*>(values_[argument].tag.base);
}

std::uint64_t HelperCall::size_after(unsigned argument) const {
    check_scalar(argument + 1);
    const std::uint64_t bytes = values_[argument + 1].bits;
    if (bytes > k_max_memory)
        stop(EACCES, "R{} unbounded memory access: size {:#x} of argument {} of {}", argument + 2, bytes, argument + 1,
             prototype_.name);
    return bytes;
}

void HelperCall::check_input(unsigned argument, std::uint64_t bytes) {
    const Value& value = values_[argument];
    if (bytes > k_max_memory)
        stop(E2BIG, "argument {} of {} has {} bytes; helpers take {} at most", argument + 1, prototype_.name, bytes,
             k_max_memory);
    if (bytes == 0 && value.kind() == Kind::scalar && value.bits == 0) return;  // NULL and 0
    const std::uint64_t address = interpreter_.locate(value, 0, bytes, false, argument + 1);
    if (value.kind() == Kind::stack) interpreter_.stack().check_public(address, bytes);
    buffers_[argument].resize(bytes);
    if (!nofault::copy_from(buffers_[argument].data(), address, bytes))
        stop(EFAULT, "R{} points to memory that the host took away", argument + 1);
}

void HelperCall::check_output(unsigned argument, std::uint64_t bytes) {
    const Value& value = values_[argument];
    if (bytes == 0 && value.kind() == Kind::scalar && value.bits == 0) return;
    const std::uint64_t address = interpreter_.locate(value, 0, bytes, true, argument + 1);
    if (value.kind() == Kind::stack) interpreter_.stack().check_writable(address, bytes);
    buffers_[argument].resize(bytes);
}

void HelperCall::check_c_string(unsigned argument) {
    const Value& value = values_[argument];
    auto& buffer = buffers_[argument];
    // What lies behind the other string's size is not compared.
    const auto limit = static_cast<std::int64_t>(input(0).size());
    for (std::int64_t at = 0; at < limit; ++at) {
        const std::uint64_t address = interpreter_.locate(value, at, 1, false, argument + 1);
        if (value.kind() == Kind::stack) interpreter_.stack().check_public(address, 1);
        const auto character = static_cast<std::byte>(nofault::load(address, 1).value);
        if (character == std::byte{0}) return;
        buffer.push_back(character);
    }
}

std::string_view HelperCall::text(unsigned argument) const noexcept {
    const auto& buffer = buffers_[argument];
    return {reinterpret_cast<const char*>(buffer.data()), buffer.size()};
}

void HelperCall::write_back() {
    for (unsigned argument = 0; argument < k_max_arguments; ++argument) {
        const auto& buffer = buffers_[argument];
        if (prototype_.arguments[argument] != ArgKind::output || buffer.empty()) continue;
        const std::uint64_t address = values_[argument].bits;
        if (values_[argument].kind() == Kind::stack) interpreter_.stack().make_scalar(address, buffer.size());
        if (!nofault::copy_to(address, buffer.data(), buffer.size()))
            stop(EFAULT, "R{} points to memory that the host took away", argument + 1);
    }
}

}  // namespace harena::bpf
