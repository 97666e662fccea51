// SPDX-License-Identifier: Apache-2.0
//
// What is not an arena's file, or cannot be had, is refused with a reason; names; what a sharer may not do to the file.
#include <fcntl.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/inspect.hpp"

namespace harena {
namespace {

using test::attach_instead;
using test::k_free_address;
using test::make_tuned_arena;
using test::Peer;
using test::processes;
using test::refused;
using test::shared_descriptor;

constexpr int k_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

os::FileDescriptor memfd(std::uint64_t bytes, int seals) {
    os::FileDescriptor fd{::memfd_create("no-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
    return fd;
}

std::uint64_t bytes_of_file(int fd) { return static_cast<std::uint64_t>(::lseek(fd, 0, SEEK_END)); }

TEST(ArenaAttach, what_is_no_memfd_is_refused) {
    EXPECT_TRUE(refused(ProcessArena::attach("/dev/null"), EINVAL, "no memfd"));
    EXPECT_TRUE(refused(ProcessArena::attach("/proc/self/fd/1000000"), ENOENT, "/proc/self/fd/1000000"));
    EXPECT_TRUE(refused(ProcessArena::attach("/nowhere"), ENOENT, "/nowhere"));
    EXPECT_TRUE(refused(ProcessArena::attach("/tmp"), EISDIR, "/tmp"));
    EXPECT_TRUE(refused(ProcessArena::attach(-1), ENOENT, ""));
}

TEST(ArenaAttach, what_may_change_its_size_is_refused) {
    for (const int seals : {0, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_GROW | F_SEAL_SHRINK}) {
        const auto fd = memfd(16 * k_page_size, seals);
        EXPECT_TRUE(refused(ProcessArena::attach(fd.get()), EINVAL, "not sealed")) << seals;
    }
}

TEST(ArenaAttach, what_cannot_be_written_is_refused) {
    for (const int seal : {F_SEAL_WRITE, F_SEAL_FUTURE_WRITE}) {
        const auto fd = memfd(16 * k_page_size, k_seals | seal);
        EXPECT_TRUE(refused(ProcessArena::attach(fd.get()), EINVAL, "sealed against writing")) << seal;
    }
}

TEST(ArenaAttach, what_does_not_say_that_it_is_an_arena_is_refused) {
    for (const std::uint64_t pages : {2U, 16U}) {
        const auto fd = memfd(pages * k_page_size, k_seals);
        EXPECT_TRUE(refused(ProcessArena::attach(fd.get()), EINVAL, "does not say")) << pages;
    }
    for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, k_page_size, 2 * k_page_size - 1}) {
        const auto fd = memfd(bytes, k_seals);
        EXPECT_TRUE(refused(ProcessArena::attach(fd.get()), EINVAL, "too small")) << bytes;
    }
}

/// An arena whose description is changed behind its back.
class ArenaAttachHostile : public ::testing::Test {
protected:
    static constexpr std::uint64_t k_pages = 16;
    static constexpr std::uint64_t k_description_bytes = 256;

    void SetUp() override {
        arena_ = make_tuned_arena(
            {.name = "victim", .pages = PageCount{k_pages}, .user_vm_start = UserAddress{k_free_address}});
        ASSERT_NE(arena_, nullptr);
        shared_ = shared_descriptor(*arena_);
        last_page_ = bytes_of_file(shared_.get()) - k_page_size;
        ASSERT_EQ(::pread(shared_.get(), original_.data(), original_.size(), offset()),
                  static_cast<ssize_t>(original_.size()));
    }
    [[nodiscard]] off_t offset(std::uint64_t field = 0) const {
        return static_cast<off_t>(last_page_ + field * sizeof(std::uint64_t));
    }
    /// Whether an attach fails when the 64-bit field `field` of the description is `value`, and with what.
    testing::AssertionResult refuses(std::uint64_t field, std::uint64_t value, std::string_view part) {
        EXPECT_EQ(::pwrite(shared_.get(), &value, sizeof value, offset(field)), 8);
        const auto refusal = refused(ProcessArena::attach(shared_.get()), EINVAL, part);
        EXPECT_EQ(::pwrite(shared_.get(), original_.data(), original_.size(), offset()),
                  static_cast<ssize_t>(original_.size()));
        return refusal;
    }
    std::shared_ptr<ProcessArena> arena_;
    os::FileDescriptor shared_;
    std::uint64_t last_page_ = 0;
    std::array<char, k_description_bytes> original_{};
};

TEST_F(ArenaAttachHostile, magic) {
    EXPECT_TRUE(refuses(0, 0, "does not say"));
    EXPECT_TRUE(refuses(0, ~0ULL, "does not say"));
}

TEST_F(ArenaAttachHostile, version) {
    EXPECT_TRUE(refuses(1, 0, "form 0"));
    EXPECT_TRUE(refuses(1, 2, "form 2"));
}

TEST_F(ArenaAttachHostile, flags) {
    EXPECT_TRUE(refuses(2, 1 << 6, "flags"));
    EXPECT_TRUE(refuses(2, std::uint64_t{1} << 63, "flags"));
    EXPECT_TRUE(refuses(2, 1 << 5, "cannot be")) << "huge pages, and not whole ones";
}

TEST_F(ArenaAttachHostile, pages) {
    EXPECT_TRUE(refuses(3, 0, "number of pages"));
    EXPECT_TRUE(refuses(3, Arena::k_max_pages.value() + 1, "number of pages"));
    EXPECT_TRUE(refuses(3, ~0ULL, "number of pages"));
    EXPECT_TRUE(refuses(3, std::uint64_t{1} << 52, "number of pages"));
    EXPECT_TRUE(refuses(3, k_pages + 1, "size"));
    EXPECT_TRUE(refuses(3, k_pages - 1, "size"));
    EXPECT_TRUE(refuses(3, Arena::k_max_pages.value(), "size"));
}

TEST_F(ArenaAttachHostile, address) {
    EXPECT_TRUE(refuses(4, k_free_address + 1, "address"));
    EXPECT_TRUE(refuses(4, k_free_address + 4 * k_gib - k_page_size, "address")) << "across 4 GiB";
    EXPECT_TRUE(refuses(4, std::uint64_t{0} - k_page_size, "address")) << "across the end of all addresses";
    EXPECT_TRUE(refuses(4, k_free_address + k_page_size, "size")) << "other bytes before the first page";
}

TEST_F(ArenaAttachHostile, address_where_no_process_has_memory) {
    for (const std::uint64_t address : {std::uint64_t{0}, k_huge_page_size, std::uint64_t{1} << 47,
                                        std::uint64_t{0xffff'8000'0000'0000}, std::uint64_t{0} - 4 * k_gib}) {
        ASSERT_EQ(::pwrite(shared_.get(), &address, sizeof address, offset(4)), 8);
        const auto attached = ProcessArena::attach(shared_.get());
        ASSERT_FALSE(attached) << address;
        EXPECT_NE(attached.error().message().find("victim"), std::string::npos) << attached.error().message();
    }
    EXPECT_EQ(processes(*arena_), 1U) << "who failed has left";
}

TEST_F(ArenaAttachHostile, name_without_an_end) {
    std::array<char, 208> name{};
    name.fill('{');
    ASSERT_EQ(::pwrite(shared_.get(), name.data(), name.size(), offset(6)), 208);
    Peer peer{[&](Peer&) {
        const auto mine = attach_instead(arena_, shared_.get());
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(mine->name(), std::string(208, '{'));
        EXPECT_TRUE(mine->alloc_pages(PageCount{1}));
    }};
    EXPECT_TRUE(peer.ends_well());
}

TEST_F(ArenaAttachHostile, page_states_of_no_meaning_can_be_freed) {
    const std::uint32_t nonsense = 0xffff'ffff;
    ASSERT_EQ(::pwrite(shared_.get(), &nonsense, sizeof nonsense,
                       static_cast<off_t>(last_page_ - k_page_size + 3 * sizeof nonsense)),
              4);
    Peer peer{[&](Peer&) {
        const auto mine = attach_instead(arena_, shared_.get());
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(mine->statistics().value().used, PageCount{1});
        ASSERT_TRUE(mine->free_pages(mine->data() + 3 * k_page_size, PageCount{1}));
        EXPECT_TRUE(mine->alloc_pages(PageCount{k_pages}));
    }};
    EXPECT_TRUE(peer.ends_well());
}

TEST_F(ArenaAttachHostile, the_shared_descriptor_can_neither_change_the_size_nor_add_seals) {
    for (const auto bytes : {off_t{0}, offset(), offset() + 2 * static_cast<off_t>(k_page_size)}) {
        EXPECT_EQ(::ftruncate(shared_.get(), bytes), -1);
        EXPECT_EQ(errno, EPERM);
    }
    EXPECT_EQ(::fallocate(shared_.get(), 0, offset(), 16 * static_cast<off_t>(k_page_size)), -1);
    for (const int seal : {F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL}) {
        EXPECT_EQ(::fcntl(shared_.get(), F_ADD_SEALS, seal), -1);
        EXPECT_EQ(errno, EPERM);
    }
}

TEST(ArenaAttach, tuning_that_the_arena_cannot_have_is_refused) {
    const auto arena = make_tuned_arena({.pages = PageCount{100}});
    ASSERT_NE(arena, nullptr);
    const auto shared = shared_descriptor(*arena);
    EXPECT_TRUE(refused(ProcessArena::attach(shared.get(), {.tuning = {.huge_pages = HugePages::all}}), EINVAL,
                        "multiples of 2 MiB"));
    EXPECT_TRUE(refused(ProcessArena::attach(shared.get(), {.tuning = {.fault_granule = PageCount{3}}}), EINVAL,
                        "fault_granule 3"));
}

TEST(ArenaAttach, an_address_that_is_taken_is_EBUSY_and_named) {
    auto arena = make_tuned_arena({.name = "there", .pages = PageCount{4}});
    ASSERT_NE(arena, nullptr);
    const auto shared = shared_descriptor(*arena);
    EXPECT_TRUE(refused(ProcessArena::attach(shared.get()), EBUSY, "there")) << "by the arena itself";
    Peer peer{[&](Peer&) {
        void* const begin = arena->data();
        arena.reset();
        const auto fd = memfd(k_page_size, 0);
        ASSERT_EQ(::mmap(begin, k_page_size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd.get(), 0), begin);
        EXPECT_TRUE(refused(ProcessArena::attach(shared.get()), EBUSY, "memfd:no-arena"));
        ASSERT_EQ(::munmap(begin, k_page_size), 0);
        EXPECT_TRUE(ProcessArena::attach(shared.get())) << "nothing was left behind";
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(processes(*arena), 1U);
}

TEST(ArenaAttach, the_256th_process_is_EUSERS_until_one_leaves) {
    auto arena = make_tuned_arena({.pages = PageCount{4}});
    ASSERT_NE(arena, nullptr);
    const auto shared = shared_descriptor(*arena);
    const std::string path = fmt::format("/proc/self/fd/{}", shared.get());
    std::vector<std::unique_ptr<ArenaFile>> others;
    for (int count = 1; count < 255; ++count) {
        auto other = ArenaFile::open(path);
        ASSERT_TRUE(other) << count << ": " << other.error().message();
        others.push_back(std::move(*other));
    }
    EXPECT_EQ(processes(*arena), 255U);
    EXPECT_TRUE(refused(ArenaFile::open(path), EUSERS, "255 processes"));
    const PageOwner left = others[100]->slots().mine();
    others[100].reset();
    EXPECT_EQ(processes(*arena), 254U);
    const auto next = ArenaFile::open(path);
    ASSERT_TRUE(next) << next.error().message();
    EXPECT_EQ((*next)->slots().mine().slot, left.slot);
    EXPECT_NE((*next)->slots().mine().generation, left.generation);
    EXPECT_FALSE((*next)->slots().alive(left));
    EXPECT_TRUE((*next)->slots().alive(others[0]->slots().mine()));
    others.clear();
    EXPECT_EQ(processes(*arena), 2U);
}

// --- names

class ArenaNames : public ::testing::Test {
protected:
    void SetUp() override {
        arena_ = make_tuned_arena({.pages = PageCount{4}});
        ASSERT_NE(arena_, nullptr);
    }
    void TearDown() override { std::filesystem::remove(path_); }
    [[nodiscard]] bool link_exists() const {
        return std::filesystem::symlink_status(path_).type() == std::filesystem::file_type::symlink;
    }
    std::string name_ = fmt::format("test-{}", ::getpid());
    std::string path_ = "/dev/shm/harena." + name_;
    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaNames, lead_another_process_to_the_arena_until_it_ends) {
    ASSERT_TRUE(test::ok(arena_->publish(name_)));
    Peer peer{[&](Peer&) {
        arena_.reset();
        EXPECT_TRUE(link_exists()) << "the copy that a child inherits publishes nothing, and takes nothing back";
        const auto mine = ProcessArena::attach_published(name_);
        ASSERT_TRUE(mine) << mine.error().message();
        EXPECT_TRUE((*mine)->alloc_pages(PageCount{2}));
    }};
    EXPECT_TRUE(peer.ends_well());
    EXPECT_EQ(test::usage(*arena_), "2 0");
    EXPECT_TRUE(refused(arena_->publish(name_ + "2"), EBUSY, name_)) << "one name each";
    arena_.reset();
    EXPECT_FALSE(link_exists());
    EXPECT_TRUE(refused(ProcessArena::attach_published(name_), ENOENT, name_));
}

TEST_F(ArenaNames, that_are_none_are_refused) {
    for (const std::string& bad : {std::string{}, std::string{"a/b"}, std::string{"../x"}, std::string{"a b"},
                                   std::string{"ä"}, std::string{"a\0b", 3}, std::string(201, 'a')}) {
        EXPECT_TRUE(refused(arena_->publish(bad), EINVAL, "no name")) << bad;
        EXPECT_TRUE(refused(ProcessArena::attach_published(bad), EINVAL, "no name")) << bad;
    }
}

TEST_F(ArenaNames, of_a_live_arena_are_not_taken_over) {
    ASSERT_TRUE(test::ok(arena_->publish(name_)));
    const auto other = make_tuned_arena({.pages = PageCount{4}});
    ASSERT_NE(other, nullptr);
    EXPECT_TRUE(refused(other->publish(name_), EEXIST, name_));
    EXPECT_TRUE(refused(ProcessArena::attach_published(name_), EBUSY, "")) << "it is still the first one's";
}

TEST_F(ArenaNames, of_a_dead_process_are_replaced) {
    Peer peer{[&](Peer& parent) {
        arena_.reset();
        const auto arena = make_tuned_arena({.pages = PageCount{4}});
        ASSERT_NE(arena, nullptr);
        ASSERT_TRUE(test::ok(arena->publish(name_)));
        parent.tell();
        parent.wait();
    }};
    peer.wait();
    EXPECT_TRUE(refused(arena_->publish(name_), EEXIST, name_));
    peer.kill();
    EXPECT_TRUE(link_exists());
    EXPECT_TRUE(refused(ProcessArena::attach_published(name_), ENOENT, ""));
    EXPECT_TRUE(test::ok(arena_->publish(name_)));
    EXPECT_TRUE(refused(ProcessArena::attach_published(name_), EBUSY, "")) << "it is this one's";
}

TEST_F(ArenaNames, that_lead_elsewhere_attach_nothing) {
    std::filesystem::create_symlink("/dev/null", path_);
    EXPECT_TRUE(refused(ProcessArena::attach_published(name_), EINVAL, "no memfd"));
    EXPECT_TRUE(refused(arena_->publish(name_), EEXIST, name_));
}

TEST_F(ArenaNames, of_a_dead_process_are_replaced_though_another_has_its_number) {
    const os::FileDescriptor other = os::open_for_reading("/proc/self/status").value();
    std::filesystem::create_symlink(fmt::format("/proc/{}/fd/{}", ::getpid(), other.get()), path_);
    EXPECT_TRUE(test::ok(arena_->publish(name_)));
    EXPECT_TRUE(refused(ProcessArena::attach_published(name_), EBUSY, "")) << "it is this one's";
}

}  // namespace
}  // namespace harena
