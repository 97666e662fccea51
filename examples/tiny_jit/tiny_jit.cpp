// SPDX-License-Identifier: Apache-2.0
// A JIT in 60 lines: compiles an expression of whole numbers, x, + - * and parentheses to x86-64, and runs it.
//     tiny_jit "3*x*x - (x+1)" 5 6 7
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "harena/exec/text_space.hpp"

namespace {

/// A stack machine: each operand is pushed, each operator takes two and pushes one. x is in rdi.
class Compiler {
public:
    explicit Compiler(std::string_view text) : text_{text} {}
    /// Empty if the text is no expression.
    std::vector<std::byte> compile() {
        const bool good = sum() && next() == '\0';
        emit({0x58, 0xc3});  // pop rax; ret
        return good ? code_ : std::vector<std::byte>{};
    }

private:
    char next() {
        while (!text_.empty() && text_.front() == ' ') text_.remove_prefix(1);
        return text_.empty() ? '\0' : text_.front();
    }
    bool take(char c) { return next() == c && (text_.remove_prefix(1), true); }
    void emit(std::initializer_list<int> bytes) {
        for (const int byte : bytes) code_.push_back(static_cast<std::byte>(byte));
    }
    void operate(std::initializer_list<int> instruction) {
        emit({0x59, 0x58});  // pop rcx; pop rax
        emit(instruction);
        emit({0x50});  // push rax
    }
    bool sum() {
        if (!product()) return false;
        for (;;) {
            const bool plus = take('+');
            if (!plus && !take('-')) return true;
            if (!product()) return false;
            plus ? operate({0x48, 0x01, 0xc8}) : operate({0x48, 0x29, 0xc8});  // add, sub rax, rcx
        }
    }
    bool product() {
        if (!operand()) return false;
        while (take('*')) {
            if (!operand()) return false;
            operate({0x48, 0x0f, 0xaf, 0xc1});  // imul rax, rcx
        }
        return true;
    }
    bool operand() {
        if (take('(')) return sum() && take(')');
        if (take('x')) return emit({0x57}), true;  // push rdi
        std::int32_t number = 0;
        next();
        const auto read = std::from_chars(text_.data(), text_.data() + text_.size(), number);
        if (read.ec != std::errc{}) return false;
        text_.remove_prefix(static_cast<std::size_t>(read.ptr - text_.data()));
        emit({0x68, number, number >> 8, number >> 16, number >> 24});  // push number
        return true;
    }

    std::string_view text_;
    std::vector<std::byte> code_;
};

int run(std::string_view expression, const std::vector<long>& values) {
    const std::vector<std::byte> code = Compiler{expression}.compile();
    if (code.empty()) return fmt::print(stderr, "tiny_jit: not an expression: {}\n", expression), 1;
    auto space = harena::TextSpace::create({.symbols = {.gdb = true}});
    if (!space) return fmt::print(stderr, "tiny_jit: {}\n", space.error().message()), 1;
    auto text = (*space)->text_alloc(code.size(), {.name = expression});
    if (!text) return fmt::print(stderr, "tiny_jit: {}\n", text.error().message()), 1;
    if (auto poked = (*space)->text_poke(*text, code); !poked)
        return fmt::print(stderr, "tiny_jit: {}\n", poked.error().message()), 1;
    const auto function = reinterpret_cast<long (*)(long)>(*text);
    for (const long x : values) fmt::print("{}\n", function(x));
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return fmt::print(stderr, "usage: tiny_jit EXPRESSION X...\n"), 2;
    std::vector<long> values;
    for (int i = 2; i < argc; ++i) values.push_back(std::strtol(argv[i], nullptr, 10));
    return run(argv[1], values);
}
