// SPDX-License-Identifier: Apache-2.0
#include "harena/base/not_inherited.hpp"

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
