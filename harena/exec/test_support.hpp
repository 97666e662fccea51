// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pthread.h>

#include <array>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "harena/base/test_support.hpp"
#include "harena/exec/text_space.hpp"

/// What the tests of the exec layer share.
namespace harena::test {

inline constexpr std::byte k_trap{0xcc};

/// Where a trap of this thread goes on; null: nobody expects one.
inline thread_local sigjmp_buf* on_trap = nullptr;

/// Catches SIGTRAP for all tests of a process. Installed before the layer's own handler, which passes on to it.
inline void catch_traps() {
    [[maybe_unused]] static const bool once = [] {
        struct sigaction action{};
        action.sa_handler = [](int /*signal*/) {
            if (on_trap == nullptr) std::abort();
            siglongjmp(*on_trap, 1);
        };
        sigemptyset(&action.sa_mask);
        return ::sigaction(SIGTRAP, &action, nullptr) == 0;
    }();
}

/// Whether a call of `text` traps, rather than returns.
inline bool traps(const void* text) {
    sigjmp_buf here;
    if (sigsetjmp(here, 1) != 0) {
        on_trap = nullptr;
        return true;
    }
    on_trap = &here;
    reinterpret_cast<void (*)()>(const_cast<void*>(text))();
    on_trap = nullptr;
    return false;
}

/// x86-64: mov eax, number; ret.
inline std::array<std::byte, 6> returning(std::uint32_t number) {
    std::array<std::byte, 6> code{std::byte{0xb8}, {}, {}, {}, {}, std::byte{0xc3}};
    std::memcpy(&code[1], &number, sizeof number);
    return code;
}
inline std::uint32_t run(const void* text) { return reinterpret_cast<std::uint32_t (*)()>(const_cast<void*>(text))(); }

/// Whether [text, text + bytes) is nothing but traps.
inline bool all_traps(const void* text, std::uint64_t bytes) {
    const auto* const at = static_cast<const std::byte*>(text);
    return bytes == 0 || (*at == k_trap && std::memcmp(at, at + 1, bytes - 1) == 0);
}

inline std::byte* plus(void* text, std::uint64_t bytes) { return static_cast<std::byte*>(text) + bytes; }

class TextTest : public testing::Test {
protected:
    TextTest() { catch_traps(); }

    /// A function in text that returns `number`.
    void* function(std::uint32_t number) const {
        void* const text = space_->text_alloc(returning(number).size()).value();
        EXPECT_TRUE(ok(space_->text_poke(text, returning(number))));
        return text;
    }

    // Keeps what is freed mapped, to be looked at.
    std::unique_ptr<TextSpace> space_ = TextSpace::create({.max_bytes = 64 * k_mib, .keep_free = 64 * k_mib}).value();
};

}  // namespace harena::test
