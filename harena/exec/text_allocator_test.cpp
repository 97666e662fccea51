// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_allocator.hpp"

#include <array>
#include <vector>

#include <gtest/gtest.h>

#include "harena/exec/text_chunk.hpp"

namespace harena {
namespace {

TEST(TextChunk, piece_is_found_by_its_begin_and_by_all_of_its_bytes_only) {
    TextChunk chunk;
    chunk.add(0, 16);
    chunk.add(1, 40);  // three granules
    chunk.add(8191, 1);
    EXPECT_EQ(chunk.at(1)->bytes, 40U);
    for (const std::uint32_t inside : {1U, 2U, 3U}) EXPECT_EQ(chunk.containing(inside)->begin, 1U);
    EXPECT_FALSE(chunk.at(2));
    EXPECT_FALSE(chunk.containing(4));
    EXPECT_EQ(chunk.containing(0)->begin, 0U);
    EXPECT_EQ(chunk.containing(8191)->bytes, 1U);
    EXPECT_EQ(chunk.free(), TextChunk::k_granules - 5);
    chunk.remove(1);
    EXPECT_FALSE(chunk.containing(2));
    EXPECT_TRUE(chunk.is_free(1, 8191));
    EXPECT_FALSE(chunk.is_free(1, 8192));
}

TEST(TextChunk, largest_piece_is_found_from_its_last_byte) {
    TextChunk chunk;
    chunk.add(100, TextChunk::k_max_piece_bytes);
    EXPECT_EQ(chunk.containing(100 + 254)->begin, 100U);
    EXPECT_FALSE(chunk.containing(100 + 255));
}

TEST(TextChunk, flags_are_kept_beside_the_size) {
    TextChunk chunk;
    chunk.add(5, 4080);
    EXPECT_EQ(chunk.untouched_at(5), 4080U);
    for (const TextPieceFlags flags : {TextPieceFlags{.written = true}, TextPieceFlags{.retired = true},
                                       TextPieceFlags{.patching = true}, TextPieceFlags{.patched = true}}) {
        chunk.set_flags(5, flags);
        EXPECT_EQ(chunk.at(5)->bytes, 4080U);
        EXPECT_EQ(chunk.at(5)->flags, flags);
        EXPECT_EQ(chunk.untouched_at(5), 0U);
    }
}

TEST(TextChunk, no_hole_is_larger_than_what_it_says) {
    TextChunk chunk;
    std::vector<std::uint32_t> begins;
    for (std::uint32_t at = 0; at + 10 <= TextChunk::k_granules; at += 10) {
        chunk.add(at, 160);
        begins.push_back(at);
    }
    EXPECT_FALSE(chunk.find_hole(10));
    EXPECT_EQ(chunk.largest(), TextChunk::k_granules % 10);
    for (std::size_t i = 0; i < begins.size(); i += 2) chunk.remove(begins[i]);
    EXPECT_GE(chunk.largest(), 10U);
    EXPECT_FALSE(chunk.find_hole(13));
    EXPECT_EQ(chunk.largest(), 10U + 2);
    // Neighbours become one, to the whole chunk.
    for (std::size_t i = 1; i < begins.size(); i += 2) chunk.remove(begins[i]);
    const auto all = chunk.find_hole(TextChunk::k_granules);
    ASSERT_TRUE(all);
    EXPECT_EQ(all->end - all->begin, TextChunk::k_granules);
}

TEST(TextAllocator, needs_blocks_and_says_which) {
    TextAllocator allocator{4};
    EXPECT_FALSE(allocator.allocate(16, 16));
    EXPECT_EQ(allocator.blocks_for(16, 16)->begin, 0U);
    EXPECT_EQ(allocator.blocks_for(16, 16)->end, 1U);
    allocator.add_block(0);
    const auto small = allocator.allocate(16, 16);
    ASSERT_TRUE(small);
    // What is free at the end of the block is part of the place.
    const auto blocks = allocator.blocks_for(3 * k_mib, 16);
    EXPECT_EQ(blocks->begin, 1U);
    EXPECT_EQ(blocks->end, 2U);
    allocator.add_block(1);
    const auto large = allocator.allocate(3 * k_mib, 16);
    ASSERT_TRUE(large);
    EXPECT_EQ(*large, 128 * k_kib);
    EXPECT_FALSE(allocator.blocks_for(6 * k_mib, 16));
    EXPECT_EQ(allocator.blocks_for(2 * k_mib, 2 * k_mib)->begin, 2U);
    EXPECT_EQ(allocator.counts().empty_blocks, 0U);
    allocator.free(*allocator.at(*large));
    EXPECT_EQ(allocator.counts().empty_blocks, 1U);
    EXPECT_EQ(allocator.empty_block(4), 1U);
    allocator.remove_block(1);
    EXPECT_EQ(allocator.counts().mapped_blocks, 1U);
    EXPECT_FALSE(allocator.empty_block(4));
    allocator.free(*allocator.at(*small));
    allocator.release_chunk();
    EXPECT_EQ(allocator.empty_block(4), 0U);
}

TEST(TextAllocator, block_in_a_gap_joins_what_is_free_on_both_sides) {
    TextAllocator allocator{3};
    for (const std::uint64_t block : {0UL, 1UL, 2UL}) allocator.add_block(block);
    const auto low = allocator.allocate(k_mib, 16);
    const auto middle = allocator.allocate(4 * k_mib, 16);
    const auto high = allocator.allocate(k_mib, 16);
    ASSERT_TRUE(low && middle && high);
    allocator.free(*allocator.at(*middle));
    ASSERT_EQ(allocator.empty_block(3), 1U);
    allocator.remove_block(1);
    EXPECT_EQ(allocator.largest_free(), k_mib);
    const auto blocks = allocator.blocks_for(4 * k_mib, 16);
    ASSERT_TRUE(blocks);
    EXPECT_EQ(blocks->begin, 1U);
    EXPECT_EQ(blocks->end, 2U);
    EXPECT_FALSE(allocator.blocks_for(4 * k_mib + 16, 16));
    allocator.add_block(1);
    EXPECT_EQ(allocator.allocate(4 * k_mib, 16), *low + k_mib);
}

TEST(TextAllocator, batch_is_side_by_side) {
    TextAllocator allocator{1};
    allocator.add_block(0);
    std::array<std::uint64_t, 4> offsets{};
    ASSERT_TRUE(allocator.allocate_adjoining(std::array<std::uint64_t, 4>{1, 17, 4080, 16}, offsets));
    EXPECT_EQ(offsets[1], offsets[0] + 16);
    EXPECT_EQ(offsets[2], offsets[1] + 32);
    EXPECT_EQ(offsets[3], offsets[2] + 4080);
    EXPECT_FALSE(allocator.is_free_in_chunk(offsets[1], offsets[2]));
    EXPECT_TRUE(allocator.is_free_in_chunk(offsets[3] + 16, offsets[3] + 64));
}

}  // namespace
}  // namespace harena
