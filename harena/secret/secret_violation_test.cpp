// SPDX-License-Identifier: Apache-2.0
// What no caller may do ends the process, with a sentence that names it. The heaps are made in the processes that end.
#include <string>

#include "harena/secret/secret_pages.hpp"
#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

class SecretViolation : public test::SecretTest {
protected:
    /// A heap, and secrets of `bytes` bytes beside one another.
    struct Three {
        explicit Three(std::size_t bytes, const SecretAllocOptions& options = {}) : heap{SecretHeap::create().value()} {
            for (std::byte*& one : at) one = static_cast<std::byte*>(heap->alloc(bytes, options).value());
        }
        void free(std::size_t i) const { (void)heap->free(at[i]); }
        std::unique_ptr<SecretHeap> heap;
        std::array<std::byte*, 3> at{};
    };
    static void flip(std::byte* at) { *static_cast<volatile std::byte*>(at) = *at ^ std::byte{1}; }
};

// In slots with and without room to spare, the largest slot, runs of one and more pages, and large ones.
constexpr std::array k_sizes{1U, 15U, 16U, 32U, 33U, 100U, 2015U, 2016U, 2017U, 4064U, 9000U, 99'999U};

TEST_F(SecretViolation, overrun_by_one_byte_is_found_at_free) {
    for (const std::size_t bytes : k_sizes) {
        SCOPED_TRACE(bytes);
        EXPECT_DEATH(
            {
                const Three three{bytes};
                flip(three.at[1] + bytes);
                three.free(1);
            },
            "harena: secret of [0-9]+ bytes at 0x[0-9a-f]+: overrun");
    }
}

TEST_F(SecretViolation, overrun_by_a_zero_byte_is_found_at_free) {
    for (const std::size_t bytes : {15U, 32U, 2017U})
        EXPECT_DEATH(
            {
                const Three three{bytes};
                three.at[1][bytes] = std::byte{0};
                three.free(1);
            },
            "overrun");
}

TEST_F(SecretViolation, underrun_by_one_byte_is_found_at_free) {
    for (const std::size_t bytes : k_sizes)
        for (const std::size_t which : {0U, 1U}) {
            SCOPED_TRACE(fmt::format("{} {}", bytes, which));
            EXPECT_DEATH(
                {
                    const Three three{bytes};
                    flip(three.at[which] - 1);
                    three.free(which);
                },
                "underrun|the bytes before it");
        }
}

TEST_F(SecretViolation, double_free_is_named) {
    for (const std::size_t bytes : k_sizes)
        EXPECT_DEATH(
            {
                const Three three{bytes};
                three.free(1);
                three.free(1);
            },
            "harena: secret at 0x[0-9a-f]+: double free");
}

TEST_F(SecretViolation, double_free_is_found_after_the_page_went_back) {
    EXPECT_DEATH(
        {
            const Three three{32};
            for (std::size_t i = 0; i < 3; ++i) three.free(i);
            (void)three.heap->trim();
            three.free(1);
        },
        "double free");
}

TEST_F(SecretViolation, free_of_what_is_not_allocated_is_named) {
    const auto free_at = [](auto&& choose) {
        const Three three{32};
        (void)three.heap->alloc(5000);
        (void)three.heap->free(choose(three));
    };
    int local = 0;
    EXPECT_DEATH(free_at([&](const Three&) { return &local; }), "not allocated here");
    EXPECT_DEATH(free_at([](const Three& three) { return three.at[1] + 1; }), "not allocated here");
    EXPECT_DEATH(free_at([](const Three& three) { return three.at[1] + 16; }), "not allocated here");
    EXPECT_DEATH(free_at([](const Three& three) { return three.at[0] - 16; }), "not allocated here");
    EXPECT_DEATH(free_at([](const Three& three) { return three.at[0] + k_mib; }), "not allocated here");
    EXPECT_DEATH(free_at([](const Three& three) { return three.at[0] - k_gib; }), "not allocated here");
    EXPECT_DEATH(free_at([](const Three& three) {
                     return static_cast<std::byte*>(three.heap->alloc(6000).value()) + 4096;
                 }),
                 "not allocated here");
    EXPECT_DEATH(free_at([](const Three&) { return SecretHeap::create().value()->alloc(32).value(); }),
                 "not allocated here");
}

TEST_F(SecretViolation, free_of_a_slot_that_was_never_allocated_is_a_double_free) {
    EXPECT_DEATH(
        {
            const Three three{32};
            (void)three.heap->free(three.at[2] + 48);
        },
        "double free");
}

TEST_F(SecretViolation, write_after_free_is_found_when_the_slot_is_handed_out) {
    EXPECT_DEATH(
        {
            const Three three{32};
            three.free(1);
            flip(three.at[1] + 31);
            for (int i = 0; i < 100; ++i) (void)three.heap->alloc(32);
        },
        "write after free");
}

TEST_F(SecretViolation, messages_have_nothing_of_the_secret) {
    EXPECT_DEATH(
        {
            const Three three{32};
            std::memcpy(three.at[1], "correct horse battery staple", 29);
            flip(three.at[1] + 32);
            three.free(1);
        },
        "^harena: secret of 32 bytes at 0x[0-9a-f]+: overrun: the bytes after it were overwritten\n$");
}

class SecretTrap : public SecretViolation {};

TEST_F(SecretTrap, overrun_of_a_guarded_secret_by_a_page_and_underrun_by_more_than_one) {
    for (const std::size_t bytes : {1U, 16U, 4096U, 5000U}) {
        EXPECT_DEATH(flip(Three(bytes, {.guarded = true}).at[1] + bytes + k_page_size - 1), "");
        EXPECT_DEATH(flip(Three(bytes, {.guarded = true}).at[1] - k_page_size - 1), "");
    }
}

TEST_F(SecretTrap, guarded_secret_of_a_multiple_of_16_by_one_byte) {
    EXPECT_DEATH(flip(Three(32, {.guarded = true}).at[0] + 32), "");
    EXPECT_DEATH(flip(Three(4096, {.guarded = true}).at[0] + 4096), "");
}

TEST_F(SecretTrap, block_by_a_page_at_both_ends) {
    EXPECT_DEATH(flip(Three(32).at[0] - k_page_size), "");
    EXPECT_DEATH(flip(Three(32).at[0] + 256 * k_kib), "");
}

TEST_F(SecretTrap, secret_pages_without_a_window_and_beside_one) {
    EXPECT_DEATH(
        {
            const auto pages = SecretPages::create(PageCount{1}).value();
            std::byte* at = nullptr;
            {
                const SecretWindow window = pages->open().value();
                at = window.data();
                flip(at);
            }
            flip(at);
        },
        "");
    EXPECT_DEATH(
        {
            const auto pages = SecretPages::create(PageCount{1}).value();
            const SecretWindow window = pages->open().value();
            flip(window.data() + k_page_size);
        },
        "");
    EXPECT_DEATH(
        {
            const auto pages = SecretPages::create(PageCount{1}).value();
            const SecretWindow window = pages->open().value();
            flip(window.data() - 1);
        },
        "");
}

}  // namespace
}  // namespace harena
