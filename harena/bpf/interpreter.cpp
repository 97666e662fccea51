// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/interpreter.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/bpf/alu.hpp"
#include "harena/bpf/helper_call.hpp"

namespace harena::bpf {

namespace {

constexpr unsigned k_max_tail_calls = 33;  // source: Linux, MAX_TAIL_CALL_CNT

}  // namespace

Interpreter::Interpreter(std::shared_ptr<const Image> image, const RunControl& control, const RunOptions& options)
    : first_image_{std::move(image)},
      image_{first_image_.get()},
      control_{control},
      options_{options},
      stack_{image_->frame_bytes, image_->max_frames} {
    frames_.reserve(image_->max_frames);
}

Interpreter::Outcome Interpreter::run(const Function& function, std::span<std::byte> context) {
    static std::byte nowhere{};
    const std::byte* const at = context.empty() ? &nowhere : context.data();
    context_ = Value::region(Kind::context, reinterpret_cast<std::uint64_t>(at), context.size());
    Result<std::uint64_t> r0 = 0;
    try {
        registers_[1] = context_;
        pc_ = function.begin;  // for the message if it cannot even begin
        begin(function, 0, true);
        r0 = execute();
    } catch (const Stop& stopped) {
        r0 = fail(stopped.code, "{}: {}", place(), stopped.message);
    } catch (const std::bad_alloc&) {
        r0 = fail(ENOMEM, "{}: no memory to go on", place());
    }
    return {.r0 = std::move(r0), .fault_count = fault_count_, .faults = take_faults(), .out_of_time = out_of_time_};
}

std::uint64_t Interpreter::execute() {
    for (;;) {
        const Insn insn = image_->code[pc_];
        ++executed_;
        switch (class_of(insn)) {
            case Class::alu:
            case Class::alu64:
                alu(insn);
                ++pc_;
                break;
            case Class::ld:  // ld_imm64, the only one that passes validate
                registers_[insn.dst] = image_->constants[static_cast<std::uint32_t>(insn.imm)];
                pc_ += 2;
                break;
            case Class::ldx:
                load(insn);
                ++pc_;
                break;
            case Class::st:
                store(insn);
                ++pc_;
                break;
            case Class::stx:
                mode_of(insn) == Mode::atomic ? atomic(insn) : store(insn);
                ++pc_;
                break;
            case Class::jmp:
            case Class::jmp32:
                if (insn.code == k_code_exit) {
                    if (!end_function()) break;
                    return registers_[0].bits;
                }
                if (insn.code == k_code_call || insn.code == k_code_call_register) {
                    call(insn);
                } else {
                    jump(insn);
                }
                break;
        }
    }
}

const Value& Interpreter::read(unsigned reg) const {
    const Value& value = registers_[reg];
    if (value.kind() == Kind::unset)
        stop(EACCES, "R{} !read_ok: the register is read before it is written{}", reg,
             reg >= 1 && reg <= 5 ? " (calls clobber R1 to R5)" : "");
    return value;
}

Value Interpreter::operand(Insn insn) const {
    if (uses_source_register(insn)) return read(insn.src);
    return Value::scalar(static_cast<std::uint64_t>(std::int64_t{insn.imm}));
}

void Interpreter::safepoint() const {
    if (control_.hard.load(std::memory_order_relaxed))
        stop(ETIMEDOUT,
             "the run is over its budget of {} ms (and {} ms of grace): a loop or recursion without can_loop or "
             "cond_break, or too little budget",
             options_.budget_ns / 1'000'000, options_.grace_ns / 1'000'000);
    if (options_.max_instructions && executed_ / 2 >= *options_.max_instructions)
        stop(ETIMEDOUT, "the run is over twice its budget of {} instructions", *options_.max_instructions);
}

bool Interpreter::may_goto_exits() const noexcept {
    return control_.soft.load(std::memory_order_relaxed) ||
           (options_.max_instructions && executed_ > *options_.max_instructions);
}

void Interpreter::jump(Insn insn) {
    bool taken = true;
    if (insn.code == k_code_may_goto) {
        safepoint();
        taken = may_goto_exits();
        out_of_time_ |= taken;
    } else if (jmp_op(insn) != JmpOp::ja) {
        taken = condition(insn);
    }
    const std::int32_t distance = taken ? jump_distance(insn) : 0;
    if (distance < 0) safepoint();
    pc_ = static_cast<std::uint32_t>(static_cast<std::int64_t>(pc_) + 1 + distance);
}

bool Interpreter::condition(Insn insn) const {
    const Value& a = read(insn.dst);
    const Value b = operand(insn);
    const JmpOp op = jmp_op(insn);
    if (!is_public(a.kind()) || !is_public(b.kind())) return pointer_condition(insn, a, b);
    if (class_of(insn) == Class::jmp) return alu::compare<std::uint64_t>(op, a.bits, b.bits);
    return alu::compare(op, static_cast<std::uint32_t>(a.bits), static_cast<std::uint32_t>(b.bits));
}

// At least one of the two is an address of the host. The answer depends on where they are in their region and never on
// where that is: a sum that wraps past 0 would tell the address, bit by bit.
bool Interpreter::pointer_condition(Insn insn, const Value& a, const Value& b) const {
    const JmpOp op = jmp_op(insn);
    const auto is_null = [](const Value& v) { return v.kind() == Kind::scalar && v.bits == 0; };
    if (class_of(insn) == Class::jmp) {
        if (is_null(a) || is_null(b)) {
            if (op == JmpOp::jeq) return false;
            if (op == JmpOp::jne) return true;
        } else if (is_region(a.kind()) && a.tag == b.tag && op != JmpOp::jset) {
            constexpr std::uint64_t k_bias = std::uint64_t{1} << 62;  // offsets may be negative, addresses are not
            return alu::compare(op, a.bits - a.tag.base + k_bias, b.bits - b.tag.base + k_bias);
        }
    }
    stop(
        EACCES,
        "pointer comparison prohibited: a value of kind {} is compared with one of kind {}; only 0 (== and !=) and the "
        "same region can be compared with",
        name_of(a.kind()), name_of(b.kind()));
}

void Interpreter::begin(const Function& function, std::uint32_t return_to, bool returns_to_helper) {
    safepoint();
    const auto depth = static_cast<std::uint32_t>(frames_.size());
    if (depth == stack_.max_frames())
        stop(E2BIG, "the call stack of {} frames is too deep at the call of '{}'", depth + 1, function.name);
    frames_.push_back({.image = image_,
                       .function = &function,
                       .return_to = return_to,
                       .returns_to_helper = returns_to_helper,
                       .saved = {registers_[6], registers_[7], registers_[8], registers_[9]}});
    stack_.enter(depth);
    registers_[0] = {};
    for (unsigned reg = 6; reg <= 9; ++reg) registers_[reg] = {};
    registers_[k_frame_pointer] = stack_.frame(depth);
    registers_[k_frame_pointer].bits += registers_[k_frame_pointer].tag.size;
    pc_ = function.begin;
}

bool Interpreter::end_function() {
    Value& r0 = registers_[0];
    const Frame& frame = frames_.back();
    // What a function without a result leaves in r0 means nothing, and nobody may read it.
    const bool needs_result = frame.returns_to_helper || frame.function->is_program;
    if (!needs_result && image_->is_void(*frame.function)) r0 = {};
    if (r0.kind() == Kind::unset) {
        if (needs_result) stop(EACCES, "R0 !read_ok: the function ends without a result in R0");
        return_to_caller();
        return false;
    }
    const bool only_public = frame.returns_to_helper || frame.function->is_global || frame.function->is_program;
    if (r0.kind() == Kind::stack) stop(EACCES, "cannot return stack pointer to the caller");
    if (only_public && !is_public(r0.kind()))
        stop(EACCES, "At program exit the register R0 is a pointer (kind {}): it may not be returned",
             name_of(r0.kind()));
    if (only_public) r0 = Value::scalar(r0.bits);
    const bool to_helper = frame.returns_to_helper;
    return_to_caller();
    return to_helper;
}

void Interpreter::return_to_caller() {
    const Frame& frame = frames_.back();
    std::copy(frame.saved.begin(), frame.saved.end(), registers_.begin() + 6);
    for (unsigned reg = 1; reg <= 5; ++reg) registers_[reg] = {};
    if (!frame.returns_to_helper) pc_ = frame.return_to;
    image_ = frame.image;
    frames_.pop_back();
    if (!frames_.empty()) {
        const auto depth = static_cast<std::uint32_t>(frames_.size() - 1);
        registers_[k_frame_pointer] = stack_.frame(depth);
        registers_[k_frame_pointer].bits += registers_[k_frame_pointer].tag.size;
    }
}

void Interpreter::call(Insn insn) {
    if (insn.code == k_code_call_register) {
        const Value& target = read(insn.dst);
        if (target.kind() != Kind::function)
            stop(EACCES, "R{} is called and is not the address of a function (kind {})", unsigned{insn.dst},
                 name_of(target.kind()));
        return call_local(static_cast<std::uint32_t>(target.bits));
    }
    switch (static_cast<CallKind>(insn.src)) {
        case CallKind::local:
            return call_local(static_cast<std::uint32_t>(static_cast<std::int64_t>(pc_) + 1 + insn.imm));
        case CallKind::helper:
            if (insn.imm == k_helper_tail_call) return tail_call();
            call_helper(find_helper(insn.imm));
            break;
        case CallKind::kfunc:
            call_helper(image_->kfuncs[static_cast<std::uint32_t>(insn.imm)]);
            break;
    }
    ++pc_;
}

void Interpreter::call_local(std::uint32_t target) {
    const Function& function = image_->function_beginning_at(target);
    if (function.is_global)  // its arguments are numbers until it casts them
        for (unsigned reg = 1; reg <= 5; ++reg)
            if (registers_[reg].kind() == Kind::arena) registers_[reg] = Value::scalar(registers_[reg].bits);
    begin(function, pc_ + 1, false);
}

void Interpreter::call_helper(const Prototype* prototype) {
    if (prototype == nullptr)
        stop(EINVAL, "a weak kfunc is called that this engine does not have: test it with bpf_ksym_exists");
    HelperCall call{*this, *prototype, std::span{registers_}.subspan<1, k_max_arguments>()};
    const Value result = prototype->function(call);
    call.write_back();
    for (unsigned reg = 1; reg <= 5; ++reg) registers_[reg] = {};
    registers_[0] = prototype->result == ResultKind::nothing ? Value{} : result;
    safepoint();
}

std::uint64_t Interpreter::call_back(std::uint32_t function_begin, std::span<const Value> arguments) {
    const std::uint32_t call_site = pc_;
    for (unsigned reg = 1; reg <= 5; ++reg) registers_[reg] = reg <= arguments.size() ? arguments[reg - 1] : Value{};
    begin(image_->function_beginning_at(function_begin), 0, true);
    const std::uint64_t r0 = execute();
    pc_ = call_site;
    return r0;
}

std::span<std::byte> Interpreter::key_buffer(std::size_t bytes) {
    const std::size_t depth = frames_.size();
    if (key_buffers_.size() <= depth) key_buffers_.resize(depth + 1);
    auto& buffer = key_buffers_[depth];
    if (!buffer) buffer = std::make_unique<std::byte[]>(ProcessMap::k_max_key_bytes);
    return {buffer.get(), bytes};
}

void Interpreter::tail_call() {
    const Value& context = read(1);
    const Value& map = read(2);
    const auto index = static_cast<std::uint32_t>(read(3).bits);
    if (context.kind() != Kind::context || context.bits != context_.bits)
        stop(EACCES, "R1 of a tail call must be the context as the program got it, not a value of kind {}",
             name_of(context.kind()));
    auto* const array =
        map.kind() == Kind::map ? dynamic_cast<ProgramArray*>(reinterpret_cast<ProcessMap*>(map.tag.base)) : nullptr;
    if (array == nullptr) stop(EACCES, "R2 of a tail call must be a map of type PROG_ARRAY");
    if (registers_[3].kind() != Kind::scalar)
        stop(EACCES, "R3 of a tail call must be a scalar, not a value of kind {}", name_of(registers_[3].kind()));
    safepoint();
    ProgramArray::Target target = array->target(index);
    if (target.function == nullptr || tail_calls_ == k_max_tail_calls) {
        for (unsigned reg = 0; reg <= 5; ++reg) registers_[reg] = {};
        ++pc_;
        return;
    }
    ++tail_calls_;
    if (std::ranges::find(entered_images_, target.image) == entered_images_.end())
        entered_images_.push_back(target.image);
    if (target.image->frame_bytes != image_->frame_bytes)
        stop(EINVAL, "tail call to '{}', which was loaded with frames of another size", target.function->name);
    // The target takes the place of this function: its end returns to this one's caller, whose r6 to r9 are kept.
    const auto depth = static_cast<std::uint32_t>(frames_.size() - 1);
    image_ = target.image.get();
    frames_.back().function = target.function;
    stack_.enter(depth);
    registers_.fill({});
    registers_[1] = context_;
    registers_[k_frame_pointer] = stack_.frame(depth);
    registers_[k_frame_pointer].bits += registers_[k_frame_pointer].tag.size;
    pc_ = target.function->begin;
}

}  // namespace harena::bpf
