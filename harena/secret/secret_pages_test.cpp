// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_pages.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <filesystem>
#include <thread>

#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using test::is_zero;
using test::Pattern;
using test::readable;
using test::refused;

/// The descriptors of this process that are files of secret memory.
std::vector<int> secret_descriptors() {
    std::vector<int> found;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
        std::error_code error;
        const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
        if (target.find("secretmem") != std::string::npos) found.push_back(std::stoi(entry.path().filename()));
    }
    return found;
}

class SecretPagesTest : public test::SecretTest {
protected:
    void SetUp() override {
        SecretTest::SetUp();
        if (!IsSkipped()) pages_ = SecretPages::create(PageCount{3}).value();
    }
    std::unique_ptr<SecretPages> pages_;
};

TEST_F(SecretPagesTest, are_zero_at_first_and_keep_what_is_written) {
    std::byte* at = nullptr;
    {
        const SecretWindow window = pages_->open().value();
        at = window.data();
        ASSERT_EQ(window.size(), 3 * k_page_size);
        EXPECT_TRUE(is_zero(at, window.size()));
        Pattern{1}.fill(at, window.size());
    }
    EXPECT_FALSE(readable(at));
    const SecretWindow again = pages_->open().value();
    EXPECT_EQ(again.data(), at);
    EXPECT_TRUE(Pattern{1}.is_at(at, again.size()));
}

TEST_F(SecretPagesTest, windows_nest_and_the_last_unmaps) {
    SecretWindow first = pages_->open().value();
    std::byte* const at = first.data();
    {
        const SecretWindow second = pages_->open().value();
        EXPECT_EQ(second.data(), at);
        EXPECT_EQ(pages_->windows(), 2U);
        EXPECT_TRUE(first.close());
        EXPECT_TRUE(readable(at));
    }
    EXPECT_FALSE(readable(at));
    EXPECT_EQ(pages_->windows(), 0U);
    EXPECT_EQ(first.data(), nullptr);
    EXPECT_EQ(first.size(), 0U);
    EXPECT_TRUE(first.close()) << "again does nothing";
}

TEST_F(SecretPagesTest, moved_windows_close_once) {
    SecretWindow a = pages_->open().value();
    SecretWindow b{std::move(a)};
    a = std::move(b);
    EXPECT_EQ(pages_->windows(), 1U);
    EXPECT_TRUE(readable(a.data()));
}

TEST_F(SecretPagesTest, no_mapping_is_left_without_a_window) {
    EXPECT_EQ(test::count_mappings("secretmem"), 0U);
    const SecretWindow window = pages_->open().value();
    EXPECT_EQ(test::count_mappings("secretmem"), 1U);
}

TEST_F(SecretPagesTest, are_between_guards) {
    const SecretWindow window = pages_->open().value();
    EXPECT_FALSE(readable(window.data() - 1));
    EXPECT_FALSE(readable(window.data() + window.size()));
}

TEST_F(SecretPagesTest, threads_open_and_close_at_any_time) {
    {
        const SecretWindow window = pages_->open().value();
        Pattern{2}.fill(window.data(), window.size());
    }
    constexpr int k_rounds = test::k_sanitizer ? 300 : 3000;
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 3; ++t)
        threads.emplace_back([&] {
            for (int i = 0; i < k_rounds; ++i) {
                const auto window = pages_->open();
                if (!window || !Pattern{2}.is_at(window->data(), 64)) ++wrong;
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(pages_->windows(), 0U);
}

TEST_F(SecretPagesTest, whose_descriptor_somebody_closed_are_lost_with_an_error_and_nothing_else_is_mapped) {
    const std::vector<int> mine = secret_descriptors();
    ASSERT_EQ(mine.size(), 1U);
    ASSERT_EQ(::close(mine[0]), 0);
    EXPECT_TRUE(refused(pages_->open(), EBADF, "closed it"));
    const int other = ::memfd_create("other", 0);
    ASSERT_EQ(::dup2(other, mine[0]), mine[0]);
    EXPECT_TRUE(refused(pages_->open(), EBADF, "closed it"));
    pages_.reset();
    EXPECT_GE(::fcntl(mine[0], F_GETFD), 0) << "the other's descriptor is not closed";
    if (other != mine[0]) ::close(other);
    ::close(mine[0]);
}

TEST_F(SecretPagesTest, descriptors_close_on_exec_and_with_the_pages) {
    for (const int fd : secret_descriptors()) EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    pages_.reset();
    EXPECT_TRUE(secret_descriptors().empty());
}

TEST_F(SecretPagesTest, bad_numbers_of_pages_are_refused) {
    EXPECT_TRUE(refused(SecretPages::create(PageCount{0}), EINVAL, "secret pages"));
    EXPECT_TRUE(refused(SecretPages::create(PageCount{(1U << 28) + 1}), EINVAL, "secret pages"));
    EXPECT_TRUE(refused(SecretPages::create(PageCount{~std::uint64_t{0}}), EINVAL, "secret pages"));
}

}  // namespace
}  // namespace harena
