// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/stack.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace harena::bpf {

Stack::Stack(std::uint32_t frame_bytes, std::uint32_t max_frames)
    : frame_bytes_{frame_bytes},
      max_frames_{max_frames},
      words_(std::size_t{frame_bytes} / 8 * max_frames),
      tags_(words_.size(), Tag{.kind = Kind::scalar}) {}

std::byte* Stack::at(std::uint64_t address) noexcept {
    return reinterpret_cast<std::byte*>(words_.data()) + offset(address);
}

Value Stack::frame(std::uint32_t depth) const noexcept {
    return Value::region(Kind::stack, base() + std::uint64_t{depth} * frame_bytes_, frame_bytes_);
}

void Stack::enter(std::uint32_t depth) noexcept {
    const std::size_t slots = frame_bytes_ / 8;
    const auto first = static_cast<std::ptrdiff_t>(depth * slots);
    std::fill_n(words_.begin() + first, slots, 0);
    std::fill_n(tags_.begin() + first, slots, Tag{.kind = Kind::scalar});
}

Value Stack::load(std::uint64_t address, unsigned size) const {
    const std::size_t first = offset(address);
    Value value;
    std::memcpy(&value.bits, reinterpret_cast<const std::byte*>(words_.data()) + first, size);
    if (size == 8 && first % 8 == 0) {
        value.tag = tags_[first / 8];
        return value;
    }
    check_plain(address, size);
    value.tag = {.kind = Kind::scalar};
    return value;
}

void Stack::store(std::uint64_t address, unsigned size, const Value& value) {
    const std::size_t first = offset(address);
    const bool whole_slot = size == 8 && first % 8 == 0;
    if (!whole_slot) {
        if (!is_public(value.kind()))
            stop(EACCES, "a pointer (kind {}) is spilled to the stack by an aligned store of 8 bytes only",
                 name_of(value.kind()));
        check_writable(address, size);
    }
    if (value.kind() == Kind::stack && offset(value.tag.base) / frame_bytes_ > first / frame_bytes_)
        stop(EACCES, "cannot spill pointers to stack into stack frame of the caller: it would outlive the frame");
    std::memcpy(at(address), &value.bits, size);
    if (whole_slot) tags_[first / 8] = value.tag;
}

void Stack::check_plain(std::uint64_t address, std::uint64_t bytes) const {
    const std::size_t first = offset(address);
    for (std::size_t slot = first / 8; slot * 8 < first + bytes; ++slot)
        if (tags_[slot].kind != Kind::scalar)
            stop(EACCES, "invalid size of register fill: a part of a spilled pointer (kind {}) is read",
                 name_of(tags_[slot].kind));
}

void Stack::check_public(std::uint64_t address, std::uint64_t bytes) const {
    const std::size_t first = offset(address);
    for (std::size_t slot = first / 8; slot * 8 < first + bytes; ++slot)
        if (!is_public(tags_[slot].kind))
            stop(EACCES, "invalid indirect read from stack: a spilled pointer (kind {}) would be leaked",
                 name_of(tags_[slot].kind));
}

void Stack::check_writable(std::uint64_t address, std::uint64_t bytes) const {
    const std::size_t first = offset(address);
    for (std::size_t slot = first / 8; slot * 8 < first + bytes; ++slot) {
        const bool whole = slot * 8 >= first && slot * 8 + 8 <= first + bytes;
        if (!whole && tags_[slot].kind != Kind::scalar)
            stop(EACCES, "attempt to corrupt spilled pointer on stack (kind {}): a part of it is overwritten",
                 name_of(tags_[slot].kind));
    }
}

void Stack::make_scalar(std::uint64_t address, std::uint64_t bytes) noexcept {
    const std::size_t first = offset(address);
    for (std::size_t slot = first / 8; slot * 8 < first + bytes; ++slot) tags_[slot] = {.kind = Kind::scalar};
}

}  // namespace harena::bpf
