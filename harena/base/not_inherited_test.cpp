// SPDX-License-Identifier: Apache-2.0
#include "harena/base/not_inherited.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <utility>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/page_math.hpp"

namespace harena {
namespace {

// A handler of fork that is older than ours, and maps something of its own in the child: where a hole may be.
constinit void* stranger_at = nullptr;
constinit bool stranger_mapped = false;
[[maybe_unused]] const int stranger = ::pthread_atfork(nullptr, nullptr, [] {
    if (stranger_at == nullptr) return;
    constexpr int k_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    stranger_mapped = ::mmap(stranger_at, k_page_size, PROT_READ | PROT_WRITE, k_flags, -1, 0) == stranger_at;
});

/// Two pages of shared memory; the first byte of each is 7.
class NotInheritedTest : public testing::Test {
protected:
    void SetUp() override {
        void* const at = ::mmap(nullptr, k_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(at, MAP_FAILED);
        memory_ = static_cast<std::byte*>(at);
        memory_[0] = memory_[k_page_size] = std::byte{7};
        ASSERT_EQ(::pipe(pipe_.data()), 0);
    }
    void TearDown() override {
        ::munmap(memory_, k_bytes);
        ::close(pipe_[0]);
        ::close(pipe_[1]);
    }

    enum class Seen : std::uint8_t { inherited, reserved, hole, failed };

    /// What a child after fork has there: by write(2), which says EFAULT for what it cannot read, and by a mapping that
    /// does not replace anything.
    Seen in_child() {
        const pid_t child = ::fork();
        if (child == 0) {
            const bool readable =
                ::write(pipe_[1], memory_, 1) == 1 && ::write(pipe_[1], memory_ + k_page_size, 1) == 1;
            if (readable) ::_exit(static_cast<int>(Seen::inherited));
            const void* const placed =
                ::mmap(memory_, k_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
            const bool taken = placed == MAP_FAILED && errno == EEXIST;
            ::_exit(static_cast<int>(taken ? Seen::reserved : Seen::hole));
        }
        int status = -1;
        if (::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return Seen::failed;
        return static_cast<Seen>(WEXITSTATUS(status));
    }

    static constexpr std::size_t k_bytes = 2 * k_page_size;
    std::byte* memory_ = nullptr;
    std::array<int, 2> pipe_{-1, -1};
};

TEST_F(NotInheritedTest, a_child_has_a_reservation_instead) {
    ASSERT_EQ(in_child(), Seen::inherited);
    {
        const auto guard = NotInherited::of(memory_, k_bytes);
        ASSERT_TRUE(guard) << guard.error().message();
        EXPECT_EQ(in_child(), Seen::reserved);
        EXPECT_EQ(memory_[0], std::byte{7});
    }
    EXPECT_EQ(in_child(), Seen::inherited);
}

TEST_F(NotInheritedTest, what_an_earlier_handler_maps_in_a_hole_stays_and_the_rest_is_reserved) {
    const auto guard = NotInherited::leaving_others(memory_, k_bytes);
    ASSERT_TRUE(guard) << guard.error().message();
    EXPECT_EQ(in_child(), Seen::reserved);
    stranger_at = memory_ + k_page_size;
    const pid_t child = ::fork();
    if (child == 0) {
        const bool stays = stranger_mapped && ::write(pipe_[1], stranger_at, 1) == 1;
        const bool rest_is_reserved = ::write(pipe_[1], memory_, 1) == -1 && errno == EFAULT &&
                                      ::mmap(memory_, k_page_size, PROT_READ,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED;
        ::_exit(stays && rest_is_reserved ? 0 : 1);
    }
    stranger_at = nullptr;
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(NotInheritedTest, what_is_lost_after_the_fork_leaves_no_hole_for_earlier_handlers) {
    const auto guard = NotInherited::after_fork(memory_, k_bytes);
    ASSERT_TRUE(guard) << guard.error().message();
    EXPECT_EQ(in_child(), Seen::reserved);
    stranger_at = memory_;
    const pid_t child = ::fork();
    if (child == 0) ::_exit(stranger_mapped ? 1 : 0);
    stranger_at = nullptr;
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(memory_[0], std::byte{7});
}

TEST_F(NotInheritedTest, what_is_mapped_into_the_range_later_is_kept_from_children_too) {
    const auto guard = NotInherited::of(memory_, k_bytes);
    ASSERT_TRUE(guard);
    constexpr int k_flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
    ASSERT_EQ(::mmap(memory_, k_bytes, PROT_READ | PROT_WRITE, k_flags, -1, 0), memory_);
    EXPECT_EQ(in_child(), Seen::reserved);
    ASSERT_TRUE(guard->replaced());
    EXPECT_EQ(in_child(), Seen::reserved);
}

TEST_F(NotInheritedTest, a_moved_one_goes_on) {
    auto first = NotInherited::of(memory_, k_bytes);
    ASSERT_TRUE(first);
    std::optional<NotInherited> second{*std::move(first)};
    EXPECT_EQ(in_child(), Seen::reserved);
    second.reset();
    EXPECT_EQ(in_child(), Seen::inherited);
}

TEST_F(NotInheritedTest, what_cannot_be_kept_is_an_error_and_leaves_nothing) {
    {
        os::FailCall failing{os::Call::madvise, EINVAL};
        const os::ScopedFaultInjector injected{failing};
        const auto guard = NotInherited::of(memory_, k_bytes);
        ASSERT_FALSE(guard);
        EXPECT_EQ(guard.error().code(), EINVAL);
    }
    EXPECT_EQ(in_child(), Seen::inherited);
}

}  // namespace
}  // namespace harena
