// SPDX-License-Identifier: Apache-2.0
// Pieces: what is promised of them, one call at a time.

#include <array>
#include <cerrno>
#include <random>
#include <vector>

#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::all_traps;
using test::k_trap;
using test::ok;
using test::plus;
using test::refused;
using test::returning;
using test::run;
using test::TextTest;
using test::traps;

TEST_F(TextTest, fresh_text_traps_written_text_runs_freed_text_traps) {
    void* const text = space_->text_alloc(100).value();
    EXPECT_TRUE(all_traps(text, 112));
    EXPECT_TRUE(traps(text));
    ASSERT_TRUE(ok(space_->text_poke(text, returning(42))));
    EXPECT_EQ(run(text), 42U);
    EXPECT_TRUE(traps(plus(text, 6))) << "what was not written";
    ASSERT_TRUE(ok(space_->text_free(text)));
    EXPECT_TRUE(traps(text));
    EXPECT_TRUE(all_traps(text, 112));
}

TEST_F(TextTest, text_that_is_used_again_traps_until_it_is_written) {
    void* const text = function(1);
    ASSERT_TRUE(ok(space_->text_free(text)));
    void* again = nullptr;
    std::vector<void*> others;
    while (again != text) {
        ASSERT_LT(others.size(), 100'000U);
        again = space_->text_alloc(6).value();
        others.push_back(again);
    }
    EXPECT_TRUE(traps(again));
}

TEST_F(TextTest, neither_the_file_nor_any_mapping_can_be_written_to_by_its_address) {
    void* const text = function(7);
    EXPECT_TRUE(test::readable(text));
    EXPECT_FALSE(test::writable(text));
    EXPECT_EQ(run(text), 7U);
}

TEST_F(TextTest, sizes_from_one_byte_to_many_blocks_and_alignments_are_had) {
    std::vector<std::pair<void*, std::uint64_t>> pieces;
    for (const std::uint64_t bytes :
         {1UL, 15UL, 16UL, 17UL, 4079UL, 4080UL, 4081UL, 100'000UL, 3 * k_mib, 9 * k_mib + 5})
        for (const std::uint64_t alignment : {16UL, 64UL, 4096UL, 8192UL, 2 * k_mib}) {
            const auto text = space_->text_alloc(bytes, {.alignment = alignment});
            if (!text) {
                EXPECT_GT(alignment * bytes, 4096UL * 4096);  // no room for all of the largest
                continue;
            }
            EXPECT_TRUE(is_aligned(reinterpret_cast<std::uint64_t>(*text), alignment)) << bytes << ' ' << alignment;
            EXPECT_TRUE(all_traps(*text, bytes));
            const std::array end{std::byte{1}};
            EXPECT_TRUE(ok(space_->text_poke(plus(*text, bytes - 1), end)));
            pieces.emplace_back(*text, bytes);
        }
    for (const auto& [text, bytes] : pieces) {
        EXPECT_TRUE(all_traps(text, bytes - 1));
        EXPECT_EQ(*plus(text, bytes - 1), std::byte{1});
        EXPECT_TRUE(ok(space_->text_free(text)));
        EXPECT_TRUE(all_traps(text, bytes));
    }
    EXPECT_EQ(space_->statistics().used_bytes, 0U);
}

TEST_F(TextTest, pieces_of_three_MiB_are_side_by_side) {
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(ok(space_->text_alloc(3 * k_mib)));
    const TextStatistics s = space_->statistics();
    EXPECT_EQ(s.used_bytes, 24 * k_mib);
    EXPECT_LE(static_cast<double>(s.reserved_bytes), 1.15 * static_cast<double>(s.used_bytes));
}

TEST_F(TextTest, bad_sizes_and_alignments_are_refused) {
    EXPECT_TRUE(refused(space_->text_alloc(0), EINVAL, "0 bytes"));
    EXPECT_TRUE(refused(space_->text_alloc(65 * k_mib), ENOMEM, "max_bytes"));
    EXPECT_TRUE(refused(space_->text_alloc(~0UL), ENOMEM, "max_bytes"));
    for (const std::uint64_t alignment : {0UL, 1UL, 8UL, 24UL, 4 * k_mib})
        EXPECT_TRUE(refused(space_->text_alloc(16, {.alignment = alignment}), EINVAL, "alignment"));
    EXPECT_TRUE(refused(TextSpace::create({.max_bytes = 0}), EINVAL, "reaches"));
    EXPECT_TRUE(refused(TextSpace::create({.max_bytes = 2 * k_gib + 1}), EINVAL, "reaches"));
    std::array<void*, 2> pieces{};
    EXPECT_TRUE(refused(space_->text_alloc_batch(std::array<std::uint64_t, 1>{16}, pieces), EINVAL, "1 sizes"));
    EXPECT_TRUE(refused(space_->text_alloc_batch(std::array<std::uint64_t, 2>{16, 0}, pieces), EINVAL, "0 bytes"));
    EXPECT_EQ(space_->statistics().pieces, 0U);
}

TEST_F(TextTest, frees_of_what_is_no_piece_are_refused) {
    void* const text = function(1);
    void* const large = space_->text_alloc(100'000).value();
    int outside = 0;
    for (const void* const bad :
         {static_cast<const void*>(nullptr), static_cast<const void*>(&outside),
          static_cast<const void*>(plus(text, 1)), static_cast<const void*>(plus(text, 16)),
          static_cast<const void*>(plus(large, 16)), static_cast<const void*>(space_->base() + space_->bytes() - 16),
          static_cast<const void*>(space_->base() + space_->bytes())}) {
        EXPECT_TRUE(refused(space_->text_free(bad), EINVAL, "no piece"));
        EXPECT_TRUE(refused(space_->text_retire(bad), EINVAL, "no piece"));
    }
    ASSERT_TRUE(ok(space_->text_free(text)));
    EXPECT_TRUE(refused(space_->text_free(text), EINVAL, "freed before"));
    ASSERT_TRUE(ok(space_->text_free(large)));
    EXPECT_TRUE(refused(space_->text_free(large), EINVAL, "freed before"));
}

TEST_F(TextTest, pokes_outside_of_a_piece_are_refused_and_change_nothing) {
    void* const text = space_->text_alloc(20).value();
    const std::array<std::byte, 21> bytes{};
    EXPECT_TRUE(refused(space_->text_poke(text, bytes), ERANGE, "beyond the end"));
    EXPECT_TRUE(refused(space_->text_poke(plus(text, 19), std::span{bytes}.first(2)), ERANGE, "beyond the end"));
    EXPECT_TRUE(refused(space_->text_poke(plus(text, 20), std::span{bytes}.first(1)), ERANGE, "beyond the end"));
    EXPECT_TRUE(refused(space_->text_poke(plus(text, 32), std::span{bytes}.first(1)), EINVAL, "in no piece"));
    EXPECT_TRUE(refused(space_->text_poke(nullptr, bytes), EINVAL, "in no piece"));
    EXPECT_TRUE(refused(space_->text_poke(space_->base() + space_->bytes(), bytes), EINVAL, "in no piece"));
    EXPECT_TRUE(all_traps(text, 4096));
    EXPECT_TRUE(ok(space_->text_poke(text, {})));
    EXPECT_TRUE(ok(space_->text_poke(text, std::span{bytes}.first(20))));
    ASSERT_TRUE(ok(space_->text_free(text)));
    EXPECT_TRUE(refused(space_->text_poke(text, std::span{bytes}.first(1)), EINVAL, "in no piece"));
    EXPECT_TRUE(all_traps(text, 4096));
}

TEST_F(TextTest, batch_of_neighbours_is_written_with_one_call_and_filled_with_one) {
    std::array<std::uint64_t, 32> sizes{};
    for (std::size_t i = 0; i < sizes.size(); ++i) sizes[i] = 6 + 31 * i;
    std::array<void*, 32> pieces{};
    ASSERT_TRUE(ok(space_->text_alloc_batch(sizes, pieces)));
    std::vector<std::vector<std::byte>> codes;
    std::vector<TextPoke> pokes;
    for (std::uint32_t i = 0; i < 32; ++i) {
        codes.emplace_back(sizes[i], std::byte{0x90});
        std::ranges::copy(returning(i), codes.back().begin());
    }
    for (std::size_t i = 0; i < 32; ++i) pokes.push_back({.dest = pieces[31 - i], .bytes = codes[31 - i]});
    const std::uint64_t writes = space_->statistics().poke_writes;
    ASSERT_TRUE(ok(space_->text_poke_batch(pokes)));
    EXPECT_EQ(space_->statistics().poke_writes - writes, 1U);
    for (std::uint32_t i = 0; i < 32; ++i) {
        EXPECT_EQ(run(pieces[i]), i);
        const std::uint64_t room = align_up(sizes[i], 16);
        EXPECT_TRUE(all_traps(plus(pieces[i], sizes[i]), room - sizes[i])) << "padding";
    }
    const std::uint64_t fills = space_->statistics().trap_fills;
    ASSERT_TRUE(ok(space_->text_free_batch(pieces)));
    EXPECT_EQ(space_->statistics().trap_fills - fills, 1U);
    for (std::size_t i = 0; i < 32; ++i) EXPECT_TRUE(all_traps(pieces[i], sizes[i]));
}

TEST_F(TextTest, batch_does_not_touch_what_others_have_between_its_pieces) {
    std::array<void*, 3> pieces{};
    ASSERT_TRUE(ok(space_->text_alloc_batch(std::array<std::uint64_t, 3>{32, 32, 32}, pieces)));
    ASSERT_TRUE(ok(space_->text_poke(pieces[1], returning(5))));
    const std::array<std::byte, 32> nops{std::byte{0x90}};
    ASSERT_TRUE(ok(space_->text_poke_batch(
        std::array{TextPoke{.dest = pieces[0], .bytes = nops}, TextPoke{.dest = pieces[2], .bytes = nops}})));
    EXPECT_EQ(run(pieces[1]), 5U);
    // Nor what was in a piece and is not written by this batch.
    const std::array two{std::byte{1}, std::byte{2}};
    ASSERT_TRUE(ok(space_->text_poke_batch(
        std::array{TextPoke{.dest = pieces[0], .bytes = two}, TextPoke{.dest = pieces[1], .bytes = returning(6)}})));
    EXPECT_EQ(std::memcmp(plus(pieces[0], 2), nops.data() + 2, 30), 0);
    ASSERT_TRUE(ok(space_->text_free_batch(std::array<const void*, 2>{pieces[0], pieces[2]})));
    EXPECT_EQ(run(pieces[1]), 6U);
    EXPECT_TRUE(traps(pieces[0]));
    EXPECT_TRUE(traps(pieces[2]));
}

TEST_F(TextTest, batches_with_one_bad_part_change_nothing) {
    void* const good = function(3);
    const auto other = returning(4);
    EXPECT_TRUE(refused(space_->text_poke_batch(std::array{TextPoke{.dest = good, .bytes = other},
                                                           TextPoke{.dest = plus(good, 16), .bytes = other}}),
                        EINVAL, "in no piece"));
    EXPECT_TRUE(refused(space_->text_poke_batch(
                            std::array{TextPoke{.dest = good, .bytes = std::span{other}.first(4)},
                                       TextPoke{.dest = plus(good, 3), .bytes = std::span{other}.first(2)}}),
                        EINVAL, "overlap"));
    EXPECT_TRUE(refused(space_->text_free_batch(std::array<const void*, 2>{good, nullptr}), EINVAL, "no piece"));
    EXPECT_TRUE(refused(space_->text_free_batch(std::array<const void*, 2>{good, good}), EINVAL, "twice"));
    EXPECT_EQ(run(good), 3U);
}

TEST_F(TextTest, batch_of_large_and_small_pieces_is_had_or_nothing_is) {
    std::vector<std::uint64_t> sizes(1000, 3000);
    sizes[500] = 5 * k_mib;
    std::vector<void*> pieces(sizes.size());
    ASSERT_TRUE(ok(space_->text_alloc_batch(sizes, pieces)));
    EXPECT_EQ(space_->statistics().pieces, 1000U);
    sizes[999] = 60 * k_mib;
    std::vector<void*> more(sizes.size());
    EXPECT_TRUE(refused(space_->text_alloc_batch(sizes, more), ENOMEM, "max_bytes"));
    EXPECT_EQ(space_->statistics().pieces, 1000U);
    EXPECT_TRUE(ok(space_->text_free_batch(pieces)));
    EXPECT_EQ(space_->statistics().pieces, 0U);
}

TEST_F(TextTest, all_of_a_space_can_be_used_and_is_whole_again) {
    std::vector<void*> pieces;
    for (;;) {
        const auto text = space_->text_alloc(100'000);
        if (!text) {
            EXPECT_TRUE(refused(text, ENOMEM, "max_bytes"));
            break;
        }
        pieces.push_back(*text);
    }
    EXPECT_GE(pieces.size() * 100'000, 64 * k_mib - 100'000 - pieces.size() * 16);
    for (void* const text : pieces) ASSERT_TRUE(ok(space_->text_free(text)));
    void* const all = space_->text_alloc(64 * k_mib).value();
    EXPECT_EQ(all, space_->base());
    EXPECT_EQ(space_->statistics().free_bytes, 0U);
    EXPECT_DOUBLE_EQ(space_->statistics().external_fragmentation(), 0);
}

TEST_F(TextTest, empty_blocks_are_kept_up_to_the_limit_and_given_back_by_trim_and_shrink) {
    const auto space = TextSpace::create({.max_bytes = 64 * k_mib, .keep_free = 4 * k_mib}).value();
    void* const large = space->text_alloc(20 * k_mib).value();
    EXPECT_EQ(space->statistics().blocks, 10U);
    ASSERT_TRUE(ok(space->text_free(large)));
    EXPECT_EQ(space->statistics().blocks, 2U);
    EXPECT_EQ(space->count(), PageCount{1024});
    EXPECT_EQ(space->shrink(PageCount{1}).value(), PageCount{512});
    EXPECT_FALSE(test::readable(large) && test::readable(plus(large, 2 * k_mib)));
    void* const small = space->text_alloc(16).value();
    ASSERT_TRUE(ok(space->text_free(small)));
    ASSERT_TRUE(ok(space->trim()));
    EXPECT_EQ(space->statistics().blocks, 0U);
    EXPECT_FALSE(test::readable(small));
    EXPECT_TRUE(traps(space->text_alloc(16).value()));
}

TEST_F(TextTest, statistics_are_exact) {
    (void)space_->text_alloc(1).value();
    (void)space_->text_alloc(5'000).value();
    void* const written = function(1);
    const TextStatistics s = space_->statistics();
    EXPECT_EQ(s.pieces, 3U);
    EXPECT_EQ(s.used_bytes, 5'007U);
    EXPECT_EQ(s.internal_bytes, 15U + 8 + 10);
    EXPECT_EQ(s.reserved_bytes, s.blocks * 2 * k_mib);
    EXPECT_EQ(s.free_bytes, s.reserved_bytes - s.used_bytes - s.internal_bytes);
    EXPECT_EQ(s.pokes, 1U);
    EXPECT_EQ(s.blocks_collapsed + s.blocks_not_collapsed, s.blocks);
    EXPECT_EQ(space_->find_text(plus(written, 3))->data(), written);
    EXPECT_EQ(space_->find_text(plus(written, 3))->size(), 6U);
    EXPECT_FALSE(space_->find_text(this));
    EXPECT_TRUE(space_->contains(written));
    EXPECT_FALSE(space_->contains(this));
}

TEST_F(TextTest, blocks_are_on_2_MiB_entries_where_the_machine_can_and_it_is_wanted) {
    (void)space_->text_alloc(6 * k_mib).value();
    if (space_->statistics().blocks_not_collapsed != 0) GTEST_SKIP() << "this machine has no 2 MiB pages for us";
    EXPECT_EQ(space_->mapped().value().bytes_2m, 6 * k_mib);
    const auto small = TextSpace::create({.huge_pages = false}).value();
    void* const text = small->text_alloc(16).value();
    EXPECT_TRUE(traps(text));
    EXPECT_EQ(small->statistics().blocks_collapsed, 0U);
}

}  // namespace
}  // namespace harena
