// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "harena/bpf/stop.hpp"
#include "harena/bpf/value.hpp"

namespace harena::bpf {

/// The stack of one run: frames side by side, with a tag for each aligned 8 bytes that says what was spilled there.
///
/// Invariant: a slot whose tag is not a scalar was written by one full, aligned store and not touched since.
/// Callers have checked that addresses lie in one frame.
class Stack {
public:
    Stack(std::uint32_t frame_bytes, std::uint32_t max_frames);

    [[nodiscard]] std::uint32_t max_frames() const noexcept { return max_frames_; }

    /// The frame at `depth` as a region; r10 is its end.
    [[nodiscard]] Value frame(std::uint32_t depth) const noexcept;

    /// Zeroes the frame at `depth` for a function that begins.
    void enter(std::uint32_t depth) noexcept;

    /// Loads `size` bytes as they are, zero-extended, with the tag of the slot if it is a whole one. Throws `Stop`
    /// (EACCES) for a part of a spilled pointer.
    [[nodiscard]] Value load(std::uint64_t address, unsigned size) const;

    /// Stores the low `size` bytes. Throws `Stop` (EACCES): a part of a spilled pointer would be overwritten, or
    /// `value` is a pointer that does not fit the slot, or one into a frame that ends before this one.
    void store(std::uint64_t address, unsigned size, const Value& value);

    /// For helpers. Throws `Stop` (EACCES) if a byte belongs to a spilled pointer whose bits the program may not learn.
    void check_public(std::uint64_t address, std::uint64_t bytes) const;
    /// For helpers. Throws `Stop` (EACCES) if only a part of a spilled pointer is in the range.
    void check_writable(std::uint64_t address, std::uint64_t bytes) const;
    /// For atomics. Throws `Stop` (EACCES) if a byte belongs to a spilled pointer of any kind.
    void check_plain(std::uint64_t address, std::uint64_t bytes) const;
    void make_scalar(std::uint64_t address, std::uint64_t bytes) noexcept;

private:
    [[nodiscard]] std::size_t offset(std::uint64_t address) const noexcept { return address - base(); }
    [[nodiscard]] std::uint64_t base() const noexcept { return reinterpret_cast<std::uint64_t>(words_.data()); }
    [[nodiscard]] std::byte* at(std::uint64_t address) noexcept;

    std::uint32_t frame_bytes_;
    std::uint32_t max_frames_;
    std::vector<std::uint64_t> words_;
    std::vector<Tag> tags_;
};

}  // namespace harena::bpf
