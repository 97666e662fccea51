// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "harena/bpf/interpreter.hpp"
#include "harena/bpf/process_map.hpp"
#include "harena/bpf/prototypes.hpp"
#include "harena/bpf/value.hpp"

namespace harena::bpf {

/// The arguments of one call of a helper or kfunc, checked against its prototype.
///
/// What is read is copied when the call is made: the memory may be shared, and must not change between a check and its
/// use. What is written goes to a buffer first and to the program's memory by `write_back`.
class HelperCall {
public:
    /// Checks r1 to r5. Throws `Stop` (EACCES, EFAULT) naming the argument.
    HelperCall(Interpreter& interpreter, const Prototype& prototype, std::span<const Value> registers);

    [[nodiscard]] Interpreter& interpreter() noexcept { return interpreter_; }
    [[nodiscard]] const Image& image() const noexcept { return interpreter_.image(); }
    [[nodiscard]] const Value& value(unsigned argument) const noexcept { return values_[argument]; }
    [[nodiscard]] std::uint64_t scalar(unsigned argument) const noexcept { return values_[argument].bits; }
    /// Of an argument of kind `optional_scalar` that the helper needs after all. Throws `Stop` (EACCES): not set, or a
    /// pointer.
    [[nodiscard]] std::uint64_t optional_scalar(unsigned argument) const;
    [[nodiscard]] ProcessMap& map(unsigned argument) const noexcept;
    [[nodiscard]] std::span<const std::byte> input(unsigned argument) const noexcept { return buffers_[argument]; }
    [[nodiscard]] std::span<std::byte> output(unsigned argument) noexcept { return buffers_[argument]; }
    [[nodiscard]] std::string_view text(unsigned argument) const noexcept;
    /// Of an argument of kind `callback`: what `Interpreter::call_back` takes.
    [[nodiscard]] std::uint32_t callback(unsigned argument) const noexcept {
        return static_cast<std::uint32_t>(values_[argument].bits);
    }

    /// Copies the outputs to the program's memory.
    void write_back();

private:
    void check(unsigned argument);
    void check_scalar(unsigned argument) const;
    void check_map(unsigned argument);
    void check_input(unsigned argument, std::uint64_t bytes);
    void check_output(unsigned argument, std::uint64_t bytes);
    void check_c_string(unsigned argument);
    [[nodiscard]] std::uint64_t size_after(unsigned argument) const;
    [[noreturn]] void wrong_kind(unsigned argument, std::string_view expected) const;

    Interpreter& interpreter_;
    const Prototype& prototype_;
    std::array<Value, k_max_arguments> values_;
    std::array<std::vector<std::byte>, k_max_arguments> buffers_;
    ProcessMap* map_ = nullptr;  // of the last map argument: sizes of keys and values
};

}  // namespace harena::bpf
