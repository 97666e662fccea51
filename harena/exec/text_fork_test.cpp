// SPDX-License-Identifier: Apache-2.0
// Forks: a child has neither its parent's text nor its file, and is told so.
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::holds_in_child;
using test::ok;
using test::refused;
using test::returning;
using test::run;

class TextFork : public test::TextTest {};

/// Descriptors of files of text.
std::size_t text_files() {
    std::size_t count = 0;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"})
        if (std::filesystem::read_symlink(entry.path(), error).string().find("harena:text") != std::string::npos)
            ++count;
    return count;
}

TEST_F(TextFork, child_has_neither_the_text_nor_its_file) {
    void* const text = function(1);
    ASSERT_EQ(text_files(), 1U);
    EXPECT_TRUE(holds_in_child([&] {
        EXPECT_FALSE(test::readable(text));
        EXPECT_EQ(test::count_mappings("harena:text"), 0U);
        EXPECT_EQ(text_files(), 0U);
        // The addresses are nobody else's.
        EXPECT_EQ(::mmap(space_->base(), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
                  MAP_FAILED);
    }));
    EXPECT_EQ(run(text), 1U);
    EXPECT_TRUE(ok(space_->text_poke(text, returning(2))));
    EXPECT_EQ(run(text), 2U);
}

TEST_F(TextFork, every_call_of_a_child_is_EOWNERDEAD_and_it_can_make_its_own) {
    void* const text = function(1);
    std::optional<TextSection> inside{space_->enter().value()};
    EXPECT_TRUE(holds_in_child([&] {
        const auto code = returning(2);
        std::array<void*, 1> pieces{};
        EXPECT_TRUE(refused(space_->text_alloc(16), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_alloc_batch(std::array<std::uint64_t, 1>{16}, pieces), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_free(text), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_free_batch(pieces), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_poke(text, code), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_poke_batch({}), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_patch(text, code), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->plain_patches_permitted(), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->enter(), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->text_retire(text), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->reclaim(), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->trim(), EOWNERDEAD, "parent"));
        EXPECT_TRUE(refused(space_->shrink(PageCount{1}), EOWNERDEAD, "parent"));
        EXPECT_EQ(space_->count(), PageCount{0});
        EXPECT_FALSE(space_->find_text(text));
        EXPECT_EQ(space_->statistics().pieces, 0U);
        inside.reset();
        space_.reset();
        const auto own = TextSpace::create({.symbols = {.gdb = true}}).value();
        void* const mine = own->text_alloc(16, {.name = "mine"}).value();
        EXPECT_TRUE(ok(own->text_poke(mine, code)));
        EXPECT_EQ(run(mine), 2U);
        const TextSection section = own->enter().value();
        EXPECT_TRUE(ok(own->text_patch(mine, std::span{code}.first(5))));
    }));
    inside.reset();
    EXPECT_EQ(space_->statistics().threads_inside, 0U);
}

TEST_F(TextFork, child_of_a_parent_with_names_for_gdb_can_drop_its_space) {
    const auto space = TextSpace::create({.symbols = {.gdb = true}}).value();
    std::unique_ptr<TextSpace> moved = TextSpace::create({.symbols = {.gdb = true}}).value();
    ASSERT_TRUE(ok(moved->text_alloc(16, {.name = "parent's"})));
    EXPECT_TRUE(holds_in_child([&] { moved.reset(); }));
}

TEST_F(TextFork, forks_while_other_threads_use_the_space_neither_hang_nor_leak_text) {
#if defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "a child of several threads may wait for the sanitizer's allocator for ever";
#endif
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < 2; ++i)
        threads.emplace_back([&, i] {
            while (!stop.load(std::memory_order_relaxed)) {
                const auto other = TextSpace::create({.max_bytes = 8 * k_mib, .keep_free = 0});
                if (!ok(other)) return;
                void* const text = (*other)->text_alloc(5 * k_mib).value();
                EXPECT_TRUE(ok((*other)->text_poke(text, returning(i))));
                const TextSection inside = (*other)->enter().value();
                EXPECT_EQ(run(text), i);
                EXPECT_TRUE(ok((*other)->text_retire(text)));
            }
        });
    constexpr int k_forks = test::k_sanitizer ? 10 : 60;
    for (int i = 0; i < k_forks; ++i)
        EXPECT_TRUE(holds_in_child([&] {
            EXPECT_EQ(test::count_mappings("harena:text"), 0U);
            EXPECT_EQ(text_files(), 0U);
            const auto own = TextSpace::create({.max_bytes = 2 * k_mib}).value();
            EXPECT_TRUE(ok(own->text_alloc(16)));
        }));
    stop = true;
    for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace harena
