// SPDX-License-Identifier: Apache-2.0
// A million operations of two threads against a model: what each secret has in it. Secrets that overlapped would
// destroy each other's patterns; canaries look at the rest.
#include <mutex>
#include <random>
#include <thread>

#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using test::is_zero;
using test::Pattern;

constexpr int k_operations = test::k_sanitizer ? 50'000 : 500'000;  // of each thread

struct Secret {
    std::byte* at;
    std::size_t bytes;
    std::uint64_t seed;
};

/// Secrets that a thread has given to the others to be freed.
struct Exchange {
    std::mutex mutex;
    std::vector<Secret> secrets;
};

SecretAllocOptions options_for(std::uint32_t number) {
    if (number % 2000 == 0) return {.guarded = true};
    if (number % 500 == 1) return {.alignment = std::size_t{1} << (number / 500 % 13)};
    return {};
}
std::size_t size_for(std::mt19937& random) {
    const auto number = static_cast<std::size_t>(random());
    switch (number % 64) {
        case 0:
            return 1 + number / 64 % 20'000;
        case 1:
        case 2:
        case 3:
            return 1 + number / 64 % 2'100;
        default:
            return 1 + number / 64 % 80;
    }
}

class SecretModel : public test::SecretHeapTest {
protected:
    void check_and_free(const Secret& secret) {
        if (!Pattern{secret.seed}.is_at(secret.at, secret.bytes)) ++wrong_;
        if (heap_->size_of(secret.at) != secret.bytes) ++wrong_;
        (void)heap_->free(secret.at);
    }
    void work(std::uint32_t seed, Exchange& exchange) {
        std::mt19937 random{seed};
        std::vector<Secret> live;
        for (int i = 0; i < k_operations; ++i) {
            const auto number = static_cast<std::uint32_t>(random());
            const bool grow = number % 1000 < (i / 20'000 % 2 == 0 ? 550U : 450U);
            if (grow || live.empty()) {
                const std::size_t bytes = size_for(random);
                const auto secret = heap_->alloc(bytes, options_for(static_cast<std::uint32_t>(random())));
                if (!secret) {
                    ++wrong_;
                    continue;
                }
                auto* const at = static_cast<std::byte*>(*secret);
                if (!is_zero(at, bytes)) ++wrong_;
                const std::uint64_t of_it = std::uint64_t{seed} << 40 | static_cast<std::uint64_t>(i);
                Pattern{of_it}.fill(at, bytes);
                live.push_back({.at = at, .bytes = bytes, .seed = of_it});
                continue;
            }
            std::swap(live[number / 1000 % live.size()], live.back());
            const Secret secret = live.back();
            live.pop_back();
            if (number % 7 != 0) {
                check_and_free(secret);
            } else {
                const std::lock_guard lock{exchange.mutex};
                exchange.secrets.push_back(secret);
                std::swap(exchange.secrets.back(), exchange.secrets[number / 7 % exchange.secrets.size()]);
                if (exchange.secrets.size() > 100) {
                    check_and_free(exchange.secrets.back());
                    exchange.secrets.pop_back();
                }
            }
            if (number % 50'000 == 3) (void)heap_->trim();
        }
        for (const Secret& secret : live) check_and_free(secret);
    }
    std::atomic<int> wrong_{0};
};

TEST_F(SecretModel, secrets_are_zero_at_first_and_keep_what_is_in_them) {
    Exchange exchange;
    std::thread other{[&] { work(2, exchange); }};
    work(1, exchange);
    other.join();
    for (const Secret& secret : exchange.secrets) check_and_free(secret);
    EXPECT_EQ(wrong_, 0);
    EXPECT_EQ(heap_->statistics().live, 0U);
    EXPECT_EQ(heap_->statistics().live_bytes, 0U);
    (void)heap_->trim();
    EXPECT_EQ(heap_->statistics().locked_bytes, 0U);
    EXPECT_EQ(heap_->statistics().vmas, 1U);
}

}  // namespace
}  // namespace harena
