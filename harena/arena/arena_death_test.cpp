// SPDX-License-Identifier: Apache-2.0
//
// Processes that are killed while they hold pages on the move: the others put that in order. The states are written by
// the words themselves, as the protocol would at that instant.
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"

namespace harena {
namespace {

using test::attach_instead;
using test::byte_at;
using test::make_tuned_arena;
using test::page_at;
using test::Peer;
using test::processes;
using test::refused;
using test::shared_descriptor;
using test::usage;

constexpr std::uint64_t k_pages = 16;
constexpr std::array k_moving{PageState::populating, PageState::freeing, PageState::clearing};

/// Page 0 to 2 are on the move in these three states, by another process; page 3 is used. All four have memory but the
/// first.
class ArenaDeath : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = make_tuned_arena({.pages = PageCount{k_pages}});
        ASSERT_NE(arena_, nullptr);
        shared_ = shared_descriptor(*arena_);
        ASSERT_TRUE(arena_->alloc_pages(PageCount{3}, {.address = at(1)}));
        std::memset(at(1), 0xee, 3 * k_page_size);
        peer_ = std::make_unique<Peer>([&](Peer& parent) {
            const auto file = ArenaFile::open(fmt::format("/proc/self/fd/{}", shared_.get()));
            ASSERT_TRUE(file) << file.error().message();
            ArenaWords words = (*file)->words();
            for (std::uint64_t page = 0; page < k_moving.size(); ++page)
                words.store(PageIndex{page}, {k_moving[page], (*file)->slots().mine()});
            parent.tell();
            parent.wait();
        });
        peer_->wait();
    }
    void TearDown() override {
        // All in order: nothing lost, nothing twice, nothing dirty.
        const ArenaStatistics now = arena_->statistics().value();
        arena_->kfunc_free_pages(test::number(arena_->data()), k_pages);
        EXPECT_EQ(usage(*arena_), "0 0");
        ASSERT_TRUE(arena_->alloc_pages(PageCount{k_pages}));
        EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
        EXPECT_EQ(now.processes, 1U);
        if (recovered_by_chance_)
            EXPECT_GE(now.recovered, k_moving.size());
        else
            EXPECT_EQ(now.recovered, k_moving.size());
        EXPECT_EQ(arena_->recover().value(), PageCount{0});
    }
    [[nodiscard]] std::byte* at(std::uint64_t page) const { return page_at(*arena_, page); }

    std::shared_ptr<ProcessArena> arena_;
    os::FileDescriptor shared_;
    std::unique_ptr<Peer> peer_;
    bool recovered_by_chance_ = false;
};

TEST_F(ArenaDeath, recover_makes_its_pages_free_and_says_how_many) {
    EXPECT_EQ(arena_->recover().value(), PageCount{0}) << "it is alive";
    EXPECT_EQ(processes(*arena_), 2U);
    peer_->kill();
    EXPECT_EQ(processes(*arena_), 1U);
    EXPECT_EQ(arena_->recover().value(), PageCount{3});
    EXPECT_EQ(usage(*arena_), "1 0");
    EXPECT_EQ(byte_at(at(3)), 0xee) << "what it was not at is untouched";
}

TEST_F(ArenaDeath, allocations_at_an_address_recover_the_pages_there) {
    peer_->kill();
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{3}, {.address = at(0)})));
    EXPECT_TRUE(test::is_zero(at(0), 3 * k_page_size));
    EXPECT_EQ(usage(*arena_), "4 0");
}

TEST_F(ArenaDeath, allocations_anywhere_find_its_pages_when_there_are_no_others) {
    peer_->kill();
    for (std::uint64_t count = 0; count < k_pages - 1; ++count) {
        const auto page = arena_->alloc_pages(PageCount{1});
        ASSERT_TRUE(page) << count << ": " << page.error().message();
        EXPECT_TRUE(test::is_zero(static_cast<std::byte*>(*page), k_page_size));
    }
    EXPECT_EQ(usage(*arena_), "16 0");
}

TEST_F(ArenaDeath, touches_recover_the_page_and_get_a_zeroed_one) {
    peer_->kill();
    // A page that has memory does not fault: it is the dead one's until somebody has to do with its word.
    EXPECT_EQ(byte_at(at(0)), 0);
    ASSERT_TRUE(test::ok(arena_->populate(at(1), 2 * k_page_size)));
    EXPECT_TRUE(test::is_zero(at(1), 2 * k_page_size));
    EXPECT_EQ(usage(*arena_), "4 0");
}

TEST_F(ArenaDeath, reservations_recover_the_pages_there) {
    peer_->kill();
    ASSERT_TRUE(test::ok(arena_->reserve_pages(at(0), PageCount{3})));
    EXPECT_EQ(usage(*arena_), "1 3");
}

TEST_F(ArenaDeath, frees_recover_the_pages_there) {
    peer_->kill();
    arena_->kfunc_free_pages(test::number(at(0)), 4);
    EXPECT_EQ(usage(*arena_), "0 0");
}

TEST_F(ArenaDeath, an_attach_recovers_what_it_finds) {
    peer_->kill();
    Peer successor{[&](Peer& parent) {
        const auto mine = attach_instead(arena_, shared_.get());
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(usage(*mine), "1 0");
        EXPECT_EQ(mine->statistics().value().recovered, 3U);
        EXPECT_EQ(mine->alloc_pages(PageCount{3}).value(), page_at(*mine, 0));
        parent.tell();
        parent.wait();
    }};
    successor.wait();
    // By whichever of the living; here it is none of this one's.
    EXPECT_EQ(arena_->recover().value(), PageCount{0});
    EXPECT_EQ(usage(*arena_), "4 0");
    successor.tell();
    EXPECT_TRUE(successor.ends_well());
    // For TearDown: three more.
    ASSERT_TRUE(arena_->free_pages(at(0), PageCount{3}));
    const auto file = ArenaFile::open(fmt::format("/proc/self/fd/{}", shared_.get()));
    ASSERT_TRUE(file);
    ArenaWords words = (*file)->words();
    for (std::uint64_t page = 4; page < 7; ++page)
        words.store(PageIndex{page}, {PageState::populating, PageOwner{.slot = 200, .generation = 7}});
    EXPECT_EQ(arena_->recover().value(), PageCount{3}) << "a slot that nobody has ever had";
}

// It is alive and does not go on: a debugger has it.
TEST_F(ArenaDeath, a_process_that_stalls_holds_up_nobody_for_ever) {
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = at(0)}), EBUSY, ""));
    EXPECT_TRUE(refused(arena_->populate(at(1), 1), EIO, std::to_string(peer_->process())));
    EXPECT_TRUE(refused(arena_->free_pages(at(1), PageCount{1}), EINVAL, ""));
    EXPECT_TRUE(refused(arena_->reserve_pages(at(2), PageCount{1}), EBUSY, ""));
    EXPECT_TRUE(arena_->alloc_pages(PageCount{12}));
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}), ENOMEM, ""));
    peer_->kill();
    EXPECT_TRUE(test::ok(arena_->alloc_pages(PageCount{3})));
}

TEST_F(ArenaDeath, a_descriptor_from_the_dead_process_does_not_keep_it_alive) {
    // What the one in SetUp has given away: the same file, by another description than the one with its lock.
    Peer sharer{[&](Peer& parent) {
        const auto mine = attach_instead(arena_, shared_.get());
        ASSERT_NE(mine, nullptr);
        const auto fd = shared_descriptor(*mine);
        parent.send_descriptor(fd.get());
        parent.wait();
    }};
    const os::FileDescriptor its{sharer.receive_descriptor()};
    ASSERT_GE(its.get(), 0);
    EXPECT_EQ(processes(*arena_), 3U);
    sharer.kill();
    peer_->kill();
    EXPECT_EQ(processes(*arena_), 1U);
    EXPECT_EQ(arena_->recover().value(), PageCount{3});
}

// Each in turn has slot 2, and dies with a page.
TEST_F(ArenaDeath, those_who_have_a_slot_after_the_dead_one_are_not_taken_for_him) {
    peer_->kill();
    PageOwner before;
    for (int turn = 0; turn < 3; ++turn) {
        const auto next = ArenaFile::open(fmt::format("/proc/self/fd/{}", shared_.get()));
        ASSERT_TRUE(next) << next.error().message();
        const PageOwner mine = (*next)->slots().mine();
        if (turn > 0) {
            EXPECT_EQ(mine.slot, before.slot);
            EXPECT_NE(mine.generation, before.generation);
        }
        before = mine;
        (*next)->words().store(PageIndex{8}, {PageState::populating, mine});
        if (turn == 0) {
            EXPECT_EQ(arena_->recover().value(), PageCount{3}) << "the dead one's, not its successor's";
        } else {
            EXPECT_EQ(arena_->recover().value(), PageCount{0});
        }
        (*next)->words().store(PageIndex{8}, {PageState::absent, {}});
    }
}

TEST_F(ArenaDeath, at_any_moment_of_its_work_leaves_the_arena_usable) {
    peer_->kill();
    EXPECT_EQ(arena_->recover().value(), PageCount{3});
    for (int turn = 0; turn < (test::k_sanitized ? 5 : 40); ++turn) {
        Peer victim{[&](Peer& parent) {
            const auto mine =
                attach_instead(arena_, shared_.get(), {.tuning = {.recycle = PageCount{turn % 2 == 0 ? 0U : 4U}}});
            ASSERT_NE(mine, nullptr);
            parent.tell();
            for (;;) {
                const auto pages = mine->alloc_pages(PageCount{3});
                if (pages && byte_at(*pages) != 0) ADD_FAILURE();
                byte_at(page_at(*mine, 5)) = 1;
                if (pages) (void)mine->free_pages(*pages, PageCount{3});
                mine->kfunc_free_pages(test::number(page_at(*mine, 5)), 1);
            }
        }};
        victim.wait();
        for (int work = 0; work < 10 + turn; ++work)
            if (const auto page = arena_->alloc_pages(PageCount{1})) (void)arena_->free_pages(*page, PageCount{1});
        victim.kill();
        (void)arena_->recover();
        const ArenaStatistics now = arena_->statistics().value();
        EXPECT_EQ(now.processes, 1U);
        arena_->kfunc_free_pages(test::number(arena_->data()), k_pages);
        const auto all = arena_->alloc_pages(PageCount{k_pages});
        ASSERT_TRUE(all) << turn << ": " << all.error().message();
        ASSERT_TRUE(test::is_zero(arena_->data(), arena_->size())) << turn;
        std::memset(arena_->data(), 0xee, arena_->size());
        ASSERT_TRUE(arena_->free_pages(arena_->data(), PageCount{k_pages}));
    }
    recovered_by_chance_ = true;
}

}  // namespace
}  // namespace harena
