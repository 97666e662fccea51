// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/system_info.hpp"
#include "harena/base/test_support.hpp"
#include "harena/secret/secret_heap.hpp"

namespace harena::test {

/// A test that needs memfd_secret.
class SecretTest : public testing::Test {
protected:
    void SetUp() override {
        if (!os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
    }
};

/// The same with a heap.
class SecretHeapTest : public SecretTest {
protected:
    void SetUp() override {
        SecretTest::SetUp();
        if (IsSkipped()) return;
        auto heap = SecretHeap::create();
        ASSERT_TRUE(heap) << heap.error().message();
        heap_ = *std::move(heap);
    }
    [[nodiscard]] std::byte* alloc(std::size_t bytes, const SecretAllocOptions& options = {}) const {
        const auto secret = heap_->alloc(bytes, options);
        if (!ok(secret)) return nullptr;
        return static_cast<std::byte*>(*secret);
    }
    void free(void* secret) const { EXPECT_TRUE(ok(heap_->free(secret))); }

    std::unique_ptr<SecretHeap> heap_;
};

/// The calling process has no capabilities, and so limits, from now on.
inline bool drop_capabilities() {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3]{};
    return ::syscall(SYS_capset, &header, none) == 0;
}

inline bool set_limit(__rlimit_resource_t resource, std::uint64_t value) {
    rlimit limit{};
    if (::getrlimit(resource, &limit) != 0) return false;
    limit.rlim_cur = value;
    return ::setrlimit(resource, &limit) == 0;
}

/// What fills a secret: byte i of the pattern of `seed`. Tests make it in the secret itself, so that no other memory
/// has more than a word of it.
class Pattern {
public:
    explicit constexpr Pattern(std::uint64_t seed) noexcept : seed_{seed} {}

    [[nodiscard]] std::uint64_t word(std::size_t i) const noexcept {
        std::uint64_t x = (seed_ + i) * 0x9e37'79b9'7f4a'7c15;
        x ^= x >> 32;
        x *= 0xd6e8'feb8'6659'fd93;
        return x ^ (x >> 32);
    }
    void fill(std::byte* at, std::size_t bytes) const noexcept {
        for (std::size_t i = 0; i < bytes; ++i)
            *static_cast<volatile std::byte*>(at + i) = static_cast<std::byte>(word(i / 8) >> (i % 8 * 8));
    }
    [[nodiscard]] bool is_at(const std::byte* at, std::size_t bytes) const noexcept {
        for (std::size_t i = 0; i < bytes; ++i)
            if (at[i] != static_cast<std::byte>(word(i / 8) >> (i % 8 * 8))) return false;
        return true;
    }
    /// How often the first 32 bytes are in [at, at + bytes), at multiples of 8.
    [[nodiscard]] std::size_t count_in(const std::byte* at, std::size_t bytes) const noexcept {
        std::size_t count = 0;
        for (std::size_t i = 0; i + 32 <= bytes; i += 8)
            if (at[i] == static_cast<std::byte>(word(0)) && is_at(at + i, 32)) ++count;
        return count;
    }

private:
    std::uint64_t seed_;
};

}  // namespace harena::test
