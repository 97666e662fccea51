// SPDX-License-Identifier: Apache-2.0
//
// Several processes with one arena: what one does, the others see.
#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

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

constexpr std::uint64_t k_pages = 64;

class ArenaSharing : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = make_tuned_arena({.name = "shared", .pages = PageCount{k_pages}});
        ASSERT_NE(arena_, nullptr);
        shared_ = shared_descriptor(*arena_);
    }
    /// The child's side: its own arena instead of what it inherited.
    std::shared_ptr<ProcessArena> attach(const AttachOptions& options = {}) {
        return attach_instead(arena_, shared_.get(), options);
    }
    [[nodiscard]] std::byte* at(std::uint64_t page) const { return page_at(*arena_, page); }

    std::shared_ptr<ProcessArena> arena_;
    os::FileDescriptor shared_;
};

TEST_F(ArenaSharing, another_process_has_it_at_the_same_address_with_the_same_size_and_name) {
    Peer peer{[&](Peer& parent) {
        const std::byte* const data = arena_->data();
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(mine->data(), data);
        EXPECT_EQ(mine->pages(), PageCount{k_pages});
        EXPECT_EQ(mine->name(), "shared");
        EXPECT_EQ(processes(*mine), 2U);
        parent.tell();
        parent.wait();
    }};
    peer.wait();
    EXPECT_EQ(processes(*arena_), 2U);
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(processes(*arena_), 1U);
}

TEST_F(ArenaSharing, what_it_was_made_with_holds_in_all_processes) {
    arena_ = make_tuned_arena(
        {.name = "strict", .pages = PageCount{8}, .segv_on_fault = true, .no_user_conv = true, .strict_reserve = true});
    ASSERT_NE(arena_, nullptr);
    shared_ = shared_descriptor(*arena_);
    Peer peer{[&](Peer&) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        EXPECT_TRUE(mine->segv_on_fault());
        EXPECT_TRUE(mine->no_user_conv());
        EXPECT_TRUE(refused(mine->populate(mine->data(), 1), EFAULT, "segv_on_fault"));
        ASSERT_TRUE(mine->reserve_pages(mine->data(), PageCount{1}));
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(usage(*arena_), "0 1");
}

TEST_F(ArenaSharing, is_reached_through_the_other_processs_descriptor_table) {
    const std::string path = fmt::format("/proc/{}/fd/{}", ::getpid(), shared_.get());
    Peer peer{[&](Peer&) {
        arena_.reset();
        const auto mine = ProcessArena::attach(path);
        ASSERT_TRUE(mine) << mine.error().message();
        EXPECT_TRUE((*mine)->alloc_pages(PageCount{3}));
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(usage(*arena_), "3 0");
}

// Nobody asked this process for a descriptor: it learns of the other one from the arena.
TEST_F(ArenaSharing, by_a_process_that_came_unasked_frees_pages_for_its_creator) {
    auto arena = make_tuned_arena(
        {.name = "unasked", .pages = PageCount{8}, .tuning = {.recycle = PageCount{0}, .deterministic = true}});
    ASSERT_NE(arena, nullptr);
    std::string path;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"})
        if (std::error_code error; std::filesystem::read_symlink(entry, error).string().contains("harena:unasked"))
            path = fmt::format("/proc/{}/fd/{}", ::getpid(), entry.path().filename().string());
    ASSERT_TRUE(arena->alloc_pages(PageCount{8}));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}), ENOMEM, ""));
    Peer peer{[&](Peer&) {
        const std::uint64_t data = test::number(arena->data());
        arena.reset();
        const auto attached = ProcessArena::attach(path);
        ASSERT_TRUE(attached) << attached.error().message();
        ASSERT_EQ(test::number((*attached)->data()), data);
        ASSERT_TRUE((*attached)->free_pages(page_at(**attached, 5), PageCount{1}));
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(arena->alloc_pages(PageCount{1}).value_or(nullptr), page_at(*arena, 5));
}

TEST_F(ArenaSharing, is_reached_by_a_descriptor_from_a_socket_which_stays_its_receivers) {
    Peer peer{[&](Peer& parent) {
        const int fd = parent.receive_descriptor();
        ASSERT_GE(fd, 0);
        const auto mine = attach_instead(arena_, fd);
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(::fcntl(fd, F_GETFD), FD_CLOEXEC);
        ::close(fd);
        byte_at(mine->data()) = 7;
    }};
    peer.send_descriptor(shared_.get());
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(byte_at(arena_->data()), 7);
}

TEST_F(ArenaSharing, both_see_what_the_other_writes) {
    ASSERT_EQ(arena_->alloc_pages(PageCount{2}).value(), at(0));
    std::memset(at(0), 0x11, 2 * k_page_size);
    Peer peer{[&](Peer& parent) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(byte_at(page_at(*mine, 1) + 4095), 0x11);
        byte_at(page_at(*mine, 1)) = 0x22;
        parent.tell();
        parent.wait();
        EXPECT_EQ(byte_at(mine->data()), 0x33);
        EXPECT_EQ(mine->statistics().value().host_faults, 0U) << "what one populated does not fault in another";
    }};
    peer.wait();
    EXPECT_EQ(byte_at(at(1)), 0x22);
    byte_at(at(0)) = 0x33;
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
}

TEST_F(ArenaSharing, pages_that_one_has_are_not_had_by_another) {
    Peer peer{[&](Peer& parent) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        parent.wait();
        EXPECT_TRUE(refused(mine->alloc_pages(PageCount{1}, {.address = page_at(*mine, 8)}), EBUSY, ""));
        EXPECT_TRUE(refused(mine->alloc_pages(PageCount{1}, {.address = page_at(*mine, 16)}), EBUSY, ""));
        EXPECT_TRUE(refused(mine->reserve_pages(page_at(*mine, 24), PageCount{1}), EBUSY, ""));
        EXPECT_TRUE(mine->alloc_pages(PageCount{4}, {.address = page_at(*mine, 32)}));
        ASSERT_TRUE(mine->reserve_pages(page_at(*mine, 40), PageCount{1}));
        byte_at(page_at(*mine, 48)) = 1;
        EXPECT_EQ(usage(*mine), "7 2");
        parent.tell();
        parent.wait();
    }};
    ASSERT_TRUE(arena_->alloc_pages(PageCount{1}, {.address = at(8)}));
    ASSERT_TRUE(arena_->reserve_pages(at(16), PageCount{1}));
    byte_at(at(24)) = 1;
    peer.tell();
    peer.wait();
    EXPECT_EQ(usage(*arena_), "7 2");
    for (const std::uint64_t page : {32U, 35U, 40U, 48U})
        EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}, {.address = at(page)}), EBUSY, "")) << page;
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(usage(*arena_), "7 2") << "who ends leaves his pages to the others";
}

// The loser's hints are wrong until he has looked.
TEST_F(ArenaSharing, every_page_is_had_by_exactly_one_of_two_that_take_all_they_get) {
    Peer peer{[&](Peer& parent) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        parent.tell();
        std::uint64_t count = 0;
        while (const auto page = mine->alloc_pages(PageCount{1})) {
            ++count;
            byte_at(*page) = static_cast<unsigned char>(byte_at(*page) + 1);
        }
        parent.send(count);
        parent.wait();
    }};
    peer.wait();
    std::uint64_t count = 0;
    while (const auto page = arena_->alloc_pages(PageCount{1})) {
        ++count;
        byte_at(*page) = static_cast<unsigned char>(byte_at(*page) + 1);
    }
    EXPECT_EQ(count + peer.receive<std::uint64_t>(), k_pages);
    EXPECT_EQ(usage(*arena_), "64 0");
    for (std::uint64_t page = 0; page < k_pages; ++page) EXPECT_EQ(byte_at(at(page)), 1) << page;
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
}

TEST_F(ArenaSharing, a_page_that_one_frees_is_the_others_to_allocate_and_reads_zero) {
    Peer peer{[&](Peer& parent) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        parent.wait();
        // All of it, single pages and a range; the parent has filled them.
        for (std::uint64_t page = 0; page < k_pages / 2; ++page)
            ASSERT_TRUE(mine->free_pages(page_at(*mine, page), PageCount{1})) << page;
        ASSERT_TRUE(mine->free_pages(page_at(*mine, k_pages / 2), PageCount{k_pages / 2}));
        EXPECT_EQ(usage(*mine), "0 0");
        parent.tell();
        parent.wait();
        for (std::uint64_t page = 0; page < k_pages; ++page)
            EXPECT_EQ(byte_at(page_at(*mine, page)), page + 1) << page << " is the parent's again";
    }};
    ASSERT_TRUE(arena_->alloc_pages(PageCount{k_pages}));
    std::memset(arena_->data(), 0xee, arena_->size());
    peer.tell();
    peer.wait();
    for (std::uint64_t count = 0; count < k_pages; ++count) {
        const auto page = arena_->alloc_pages(PageCount{1});
        ASSERT_TRUE(page) << count << ": " << page.error().message();
        EXPECT_TRUE(test::is_zero(static_cast<std::byte*>(*page), k_page_size));
        std::memset(*page, 0xee, k_page_size);
    }
    for (std::uint64_t page = 0; page < k_pages; ++page) byte_at(at(page)) = static_cast<unsigned char>(page + 1);
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
}

TEST_F(ArenaSharing, a_page_without_memory_is_gone_in_all_and_faults_in_all) {
    arena_ = make_tuned_arena({.pages = PageCount{4}, .tuning = {.exact_presence = true}});
    ASSERT_NE(arena_, nullptr);
    shared_ = shared_descriptor(*arena_);
    ASSERT_TRUE(arena_->alloc_pages(PageCount{4}));
    std::memset(arena_->data(), 0xee, arena_->size());
    Peer peer{[&](Peer& parent) {
        const auto mine = attach({.tuning = {.exact_presence = true}});
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(byte_at(page_at(*mine, 1)), 0xee);
        parent.tell();
        parent.wait();
        EXPECT_EQ(byte_at(page_at(*mine, 1)), 0) << "freed by the parent: a new page";
        EXPECT_EQ(mine->statistics().value().host_faults, 1U);
        EXPECT_EQ(usage(*mine), "4 0");
    }};
    peer.wait();
    ASSERT_TRUE(arena_->free_pages(at(1), PageCount{1}));
    EXPECT_EQ(usage(*arena_), "3 0");
    peer.tell();
    EXPECT_TRUE(peer.ends_well());
    EXPECT_TRUE(refused(arena_->alloc_pages(PageCount{1}), ENOMEM, "")) << "the child's touch has made it used";
}

TEST_F(ArenaSharing, a_process_that_comes_late_finds_free_what_is_free) {
    ASSERT_TRUE(arena_->alloc_pages(PageCount{k_pages}));
    std::memset(arena_->data(), 0xee, arena_->size());
    for (std::uint64_t page = 0; page < k_pages; page += 2) ASSERT_TRUE(arena_->free_pages(at(page), PageCount{1}));
    Peer peer{[&](Peer&) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        EXPECT_TRUE(refused(mine->alloc_pages(PageCount{2}), ENOMEM, ""));
        for (std::uint64_t count = 0; count < k_pages / 2; ++count) {
            const auto page = mine->alloc_pages(PageCount{1});
            ASSERT_TRUE(page) << count;
            EXPECT_TRUE(test::is_zero(static_cast<std::byte*>(*page), k_page_size));
        }
        EXPECT_FALSE(mine->alloc_pages(PageCount{1}));
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(usage(*arena_), "64 0");
}

TEST_F(ArenaSharing, outlives_its_creator) {
    std::shared_ptr<ProcessArena> mine;
    Peer creator{[](Peer& parent) {
        const auto arena = make_tuned_arena({.name = "legacy", .pages = PageCount{8}});
        ASSERT_NE(arena, nullptr);
        byte_at(arena->alloc_pages(PageCount{1}).value()) = 42;
        const auto shared = shared_descriptor(*arena);
        parent.send_descriptor(shared.get());
        parent.wait();
    }};
    const int fd = creator.receive_descriptor();
    auto attached = ProcessArena::attach(fd);
    ::close(fd);
    ASSERT_TRUE(attached) << attached.error().message();
    creator.tell();
    EXPECT_TRUE(creator.ends_well());
    EXPECT_EQ(processes(**attached), 1U);
    EXPECT_EQ(byte_at((*attached)->data()), 42);
    EXPECT_TRUE((*attached)->alloc_pages(PageCount{7}));
    ASSERT_TRUE((*attached)->free_pages((*attached)->data(), PageCount{8}));
    EXPECT_EQ(usage(**attached), "0 0");
}

TEST_F(ArenaSharing, the_snapshot_says_whose_pages_are_whose) {
    Peer peer{[&](Peer& parent) {
        const auto mine = attach();
        ASSERT_NE(mine, nullptr);
        ASSERT_TRUE(mine->alloc_pages(PageCount{2}, {.address = page_at(*mine, 2)}));
        parent.tell();
        parent.wait();
    }};
    ASSERT_TRUE(arena_->alloc_pages(PageCount{2}, {.address = at(0)}));
    peer.wait();
    auto ranges = arena_->snapshot().value();
    ASSERT_EQ(ranges.size(), 2U);
    EXPECT_TRUE(ranges[0].mine && ranges[0].process == static_cast<std::uint32_t>(::getpid()));
    EXPECT_FALSE(ranges[1].mine);
    EXPECT_EQ(ranges[1].process, static_cast<std::uint32_t>(peer.process()));
    EXPECT_EQ(ranges[1].address, at(2));
    peer.kill();
    ranges = arena_->snapshot().value();
    ASSERT_EQ(ranges.size(), 2U);
    EXPECT_EQ(ranges[1].process, 0U) << "it is gone, its pages are not";
    EXPECT_EQ(ranges[1].pages, PageCount{2});
}

}  // namespace
}  // namespace harena
