// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "harena/bpf/fault.hpp"
#include "harena/bpf/image.hpp"
#include "harena/bpf/process_map.hpp"
#include "harena/bpf/program.hpp"
#include "harena/bpf/run_control.hpp"
#include "harena/bpf/stack.hpp"
#include "harena/bpf/stop.hpp"
#include "harena/bpf/value.hpp"

namespace harena::bpf {

/// Runs one program once: the reference for every other engine.
///
/// It needs no verifier. Each register and each stack slot carries what it holds (`Tag`), and before every access to
/// memory the pointer's region decides whether it is made. Arena accesses go through `nofault`, at window + low 32 bits
/// + offset, and cannot leave the window's span. So whatever the instructions are, the program reaches its arena, its
/// stack, its context and map values, and learns no address of the host (docs/bpf.md has the argument, case by case).
///
/// The instructions have passed `validate` and `link`: jumps and calls land on instructions of the same image.
class Interpreter {
public:
    struct Outcome {
        Result<std::uint64_t> r0;
        std::uint64_t fault_count;
        std::vector<Fault> faults;
        bool out_of_time;
    };

    Interpreter(std::shared_ptr<const Image> image, const RunControl& control, const RunOptions& options);

    /// Runs `function` with `context` behind r1. Once.
    [[nodiscard]] Outcome run(const Function& function, std::span<std::byte> context);

    // For helpers, through `HelperCall`.

    /// Calls a function of the program and returns its r0. Throws `Stop`.
    std::uint64_t call_back(std::uint32_t function_begin, std::span<const Value> arguments);
    /// Memory for the key that a callback gets, one for each depth of calls. It lives as long as the run, since the
    /// callback may keep a pointer to it in a caller's frame; the next use at the same depth overwrites it.
    [[nodiscard]] std::span<std::byte> key_buffer(std::size_t bytes);
    /// Set when the run is over its time: calls that take long look at it.
    [[nodiscard]] const std::atomic<bool>& cancel() const noexcept { return control_.hard; }
    [[nodiscard]] Stack& stack() noexcept { return stack_; }
    [[nodiscard]] const Image& image() const noexcept { return *image_; }
    /// The address of `bytes` bytes at a pointer into a region. Throws `Stop` (EFAULT, EACCES) if they are not all
    /// inside.
    [[nodiscard]] std::uint64_t locate(const Value& pointer, std::int64_t offset, std::uint64_t bytes, bool write,
                                       unsigned reg) const;

private:
    struct Frame {
        const Image* image;
        const Function* function;
        std::uint32_t return_to;
        bool returns_to_helper;
        std::array<Value, 4> saved;  // r6 to r9 of the caller
    };
    struct RecordedFault {
        const Image* image;
        std::uint32_t insn;
        Fault::Access access;
        std::uint64_t address;
    };

    // interpreter.cpp: the loop, calls and jumps.
    std::uint64_t execute();
    void begin(const Function& function, std::uint32_t return_to, bool returns_to_helper);
    /// Ends the current function. True if that ends `execute` too.
    bool end_function();
    void return_to_caller();
    void jump(Insn insn);
    void call(Insn insn);
    void call_local(std::uint32_t target);
    void call_helper(const Prototype* prototype);
    void tail_call();
    [[nodiscard]] bool condition(Insn insn) const;
    [[nodiscard]] bool pointer_condition(Insn insn, const Value& a, const Value& b) const;
    [[nodiscard]] bool may_goto_exits() const noexcept;
    void safepoint() const;
    [[nodiscard]] const Value& read(unsigned reg) const;
    [[nodiscard]] Value operand(Insn insn) const;
    [[nodiscard]] std::string place() const { return image_->file->describe_place(pc_); }

    // interpreter_alu.cpp
    void alu(Insn insn);
    [[nodiscard]] Value move(Insn insn, const Value& source) const;
    [[nodiscard]] Value cast(Insn insn, const Value& source) const;
    [[nodiscard]] Value byte_order(Insn insn, const Value& value) const;
    [[nodiscard]] Value binary(Insn insn, const Value& a, const Value& b) const;
    [[nodiscard]] Value pointer_arithmetic(Insn insn, const Value& a, const Value& b) const;

    // interpreter_memory.cpp
    void load(Insn insn);
    void store(Insn insn);
    void atomic(Insn insn);
    [[nodiscard]] Value load_from(const Value& pointer, std::int16_t offset, unsigned size, unsigned reg);
    void store_to(const Value& pointer, std::int16_t offset, unsigned size, const Value& value, unsigned reg);
    [[nodiscard]] std::uint64_t arena_address(const Value& pointer, std::int16_t offset) const;
    /// Where the arena's faults do not tell (`ProcessArena::watched`), whether there is something to access.
    [[nodiscard]] bool has_memory(const Value& pointer, std::int16_t offset, unsigned size) const;
    void check_aligned(const Value& pointer, std::int16_t offset, unsigned size, unsigned reg) const;
    void read_modify_write(Insn insn, const Value& pointer, const Value& source);
    void record_fault(Fault::Access access, const Value& pointer, std::int16_t offset);
    [[nodiscard]] std::vector<Fault> take_faults() const;

    std::shared_ptr<const Image> first_image_;
    const Image* image_;
    const RunControl& control_;
    const RunOptions& options_;
    std::array<Value, k_registers> registers_{};
    std::uint32_t pc_ = 0;
    std::uint64_t executed_ = 0;
    std::vector<Frame> frames_;
    Stack stack_;
    Value context_;
    unsigned tail_calls_ = 0;
    bool out_of_time_ = false;
    std::vector<std::shared_ptr<const Image>> entered_images_;  // by tail calls
    std::vector<std::unique_ptr<std::byte[]>> key_buffers_;     // by depth
    std::uint64_t fault_count_ = 0;
    std::deque<RecordedFault> faults_;  // the last ones
};

}  // namespace harena::bpf
