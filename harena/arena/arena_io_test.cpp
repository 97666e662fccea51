// SPDX-License-Identifier: Apache-2.0
// System calls on arena memory that is absent: what they move arrives, and nothing is lost.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include <gtest/gtest.h>

#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {
namespace {

using test::make_arena;
using test::page_at;
using test::refused;
using test::usage;

/// Two connected descriptors.
struct Pair {
    os::FileDescriptor first;
    os::FileDescriptor second;

    static Pair pipe() {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::pipe(ends.data()), 0);
        return {os::FileDescriptor{ends[0]}, os::FileDescriptor{ends[1]}};
    }
    static Pair sockets(int type) {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, type, 0, ends.data()), 0);
        return {os::FileDescriptor{ends[0]}, os::FileDescriptor{ends[1]}};
    }
};

std::string_view text_at(const void* at, std::size_t bytes) { return {static_cast<const char*>(at), bytes}; }
iovec part(void* at, std::size_t bytes) { return {.iov_base = at, .iov_len = bytes}; }

constexpr std::string_view k_text = "an absent page is no place for a system call";

TEST(ArenaIo, absent_pages_are_read_into_and_written_from) {
    const auto arena = make_arena(8);
    const auto [out, in] = Pair::pipe();
    ASSERT_EQ(::write(in.get(), k_text.data(), k_text.size()), static_cast<ssize_t>(k_text.size()));
    std::byte* const across = page_at(*arena, 3) - 10;  // on two pages
    EXPECT_EQ(arena->read(out.get(), across, k_text.size()), k_text.size());
    EXPECT_EQ(text_at(across, k_text.size()), k_text);
    EXPECT_EQ(usage(*arena), "2 0");

    EXPECT_EQ(arena->write(in.get(), across, k_text.size()), k_text.size());
    EXPECT_EQ(arena->write(in.get(), page_at(*arena, 5), 3), 3U) << "of an absent page, zeros";
    std::array<char, 100> back{};
    EXPECT_EQ(::read(out.get(), back.data(), back.size()), static_cast<ssize_t>(k_text.size() + 3));
    EXPECT_EQ(text_at(back.data(), k_text.size() + 3), std::string{k_text} + std::string(3, '\0'));
    EXPECT_EQ(usage(*arena), "3 0");
}

TEST(ArenaIo, a_count_is_as_short_as_that_of_the_call) {
    const auto arena = make_arena(8);
    const auto [out, in] = Pair::pipe();
    ASSERT_EQ(::write(in.get(), "abc", 3), 3);
    EXPECT_EQ(arena->read(out.get(), arena->data(), 2 * k_page_size), 3U);
    EXPECT_EQ(usage(*arena), "2 0") << "the buffer's pages are used";
}

TEST(ArenaIo, files_are_read_and_written_at_a_place) {
    const auto arena = make_arena(8);
    const auto file = os::memfd_create("arena_io");
    ASSERT_TRUE(file);
    std::memcpy(page_at(*arena, 1), "0123456789", 10);
    EXPECT_EQ(arena->pwrite(file->get(), page_at(*arena, 1), 10, k_page_size), 10U);
    EXPECT_EQ(arena->pread(file->get(), page_at(*arena, 2), 100, k_page_size + 4), 6U);
    EXPECT_EQ(text_at(page_at(*arena, 2), 7), std::string_view("456789\0", 7));
    EXPECT_EQ(arena->pread(file->get(), page_at(*arena, 2), 100, 2 * k_page_size), 0U) << "past the end";
}

TEST(ArenaIo, a_datagram_for_absent_pages_is_not_lost) {
    const auto arena = make_arena(8);
    const auto [here, there] = Pair::sockets(SOCK_DGRAM);
    // The plain call consumes the datagram and fails: that is why there are these.
    ASSERT_EQ(::send(there.get(), k_text.data(), k_text.size(), 0), static_cast<ssize_t>(k_text.size()));
    EXPECT_EQ(::recv(here.get(), page_at(*arena, 1), k_page_size, MSG_DONTWAIT), -1);
    EXPECT_EQ(errno, EFAULT);
    EXPECT_EQ(::recv(here.get(), page_at(*arena, 1), k_page_size, MSG_DONTWAIT), -1);
    EXPECT_EQ(errno, EAGAIN);

    ASSERT_EQ(::send(there.get(), k_text.data(), k_text.size(), 0), static_cast<ssize_t>(k_text.size()));
    EXPECT_EQ(arena->recv(here.get(), page_at(*arena, 1), k_page_size), k_text.size());
    EXPECT_EQ(text_at(page_at(*arena, 1), k_text.size()), k_text);

    EXPECT_EQ(arena->send(there.get(), page_at(*arena, 1), k_text.size()), k_text.size());
    EXPECT_EQ(arena->recv(here.get(), page_at(*arena, 4) - 8, 11), 11U) << "on two absent pages";
    EXPECT_EQ(text_at(page_at(*arena, 4) - 8, 11), k_text.substr(0, 11));
}

TEST(ArenaIo, parts_may_lie_in_the_arena_and_outside) {
    const auto arena = make_arena(8);
    const auto [out, in] = Pair::pipe();
    std::array<char, 7> header{'h', 'e', 'a', 'd', 'e', 'r', ' '};
    std::memcpy(page_at(*arena, 1), k_text.data(), k_text.size());
    const std::array from{part(header.data(), header.size()), part(nullptr, 0),
                          part(page_at(*arena, 1), k_text.size())};
    EXPECT_EQ(arena->writev(in.get(), from), header.size() + k_text.size());
    std::array<char, 4> first{};
    const std::array into{part(first.data(), first.size()), part(page_at(*arena, 4) - 5, 10),
                          part(page_at(*arena, 7), 100)};
    EXPECT_EQ(arena->readv(out.get(), into), header.size() + k_text.size());
    EXPECT_EQ(text_at(first.data(), 4), "head");
    EXPECT_EQ(text_at(page_at(*arena, 4) - 5, 10), "er an abse");
    EXPECT_EQ(text_at(page_at(*arena, 7), k_text.size() - 7), k_text.substr(7));
}

TEST(ArenaIo, a_message_arrives_with_its_control_data_in_absent_pages) {
    const auto arena = make_arena(8);
    const auto [here, there] = Pair::sockets(SOCK_DGRAM);
    const int yes = 1;
    ASSERT_EQ(::setsockopt(here.get(), SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes), 0);
    std::memcpy(page_at(*arena, 1), k_text.data(), k_text.size());
    std::array body{part(page_at(*arena, 1), k_text.size())};
    msghdr sent{};
    sent.msg_iov = body.data();
    sent.msg_iovlen = body.size();
    EXPECT_EQ(arena->sendmsg(there.get(), sent), k_text.size());

    std::array into{part(page_at(*arena, 3) - 3, k_page_size)};
    msghdr received{};
    received.msg_iov = into.data();
    received.msg_iovlen = into.size();
    received.msg_name = page_at(*arena, 5);
    received.msg_namelen = sizeof(sockaddr_storage);
    received.msg_control = page_at(*arena, 6);
    received.msg_controllen = 256;
    EXPECT_EQ(arena->recvmsg(here.get(), received), k_text.size());
    EXPECT_EQ(text_at(page_at(*arena, 3) - 3, k_text.size()), k_text);
    const cmsghdr* const control = CMSG_FIRSTHDR(&received);
    ASSERT_NE(control, nullptr);
    EXPECT_EQ(control->cmsg_type, SCM_CREDENTIALS);
    EXPECT_EQ(usage(*arena), "5 0");
}

TEST(ArenaIo, buffers_that_are_not_all_in_the_arena_are_refused) {
    const auto arena = make_arena(8);
    const auto [out, in] = Pair::pipe();
    ASSERT_EQ(::write(in.get(), "abc", 3), 3);
    std::array<char, 100> mine{};
    std::byte* const end = arena->data() + arena->size();
    EXPECT_TRUE(refused(arena->read(out.get(), mine.data(), 3), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->read(out.get(), nullptr, 3), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->read(out.get(), end - 2, 3), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->read(out.get(), arena->data() - 1, 3), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->read(out.get(), arena->data(), SIZE_MAX), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->write(in.get(), mine.data(), 3), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->pread(out.get(), end, 1, 0), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->pwrite(in.get(), mine.data(), 1, 0), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->recv(out.get(), mine.data(), 1), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->send(in.get(), mine.data(), 1), ERANGE, "arena"));
    const std::array at_the_end{part(mine.data(), 1), part(end - 2, 3)};
    EXPECT_TRUE(refused(arena->readv(out.get(), at_the_end), ERANGE, "arena"));
    const std::array at_the_begin{part(arena->data() - 1, 2)};
    EXPECT_TRUE(refused(arena->writev(in.get(), at_the_begin), ERANGE, "arena"));
    const std::array all_there_is{part(arena->data() - 1, SIZE_MAX)};
    EXPECT_TRUE(refused(arena->writev(in.get(), all_there_is), ERANGE, "arena"));
    EXPECT_EQ(usage(*arena), "0 0");
    EXPECT_EQ(arena->read(out.get(), arena->data(), 100), 3U) << "nothing was consumed";
}

TEST(ArenaIo, lists_of_parts_in_the_arena_are_refused) {
    const auto arena = make_arena(8);
    const auto [here, there] = Pair::sockets(SOCK_DGRAM);
    auto* const parts = new (arena->data()) std::array<iovec, 2>{part(arena->data(), 1), part(arena->data(), 1)};
    EXPECT_TRUE(refused(arena->readv(here.get(), *parts), EINVAL, "list of parts"));
    msghdr message{};
    message.msg_iov = parts->data();
    message.msg_iovlen = 1;
    EXPECT_TRUE(refused(arena->recvmsg(here.get(), message), EINVAL, "list of parts"));
    EXPECT_TRUE(refused(arena->sendmsg(there.get(), *new (page_at(*arena, 1)) msghdr{}), EINVAL, "message"));
}

TEST(ArenaIo, empty_buffers_may_lie_anywhere) {
    const auto arena = make_arena(8);
    const auto [here, there] = Pair::sockets(SOCK_DGRAM);
    ASSERT_EQ(::send(there.get(), "abc", 3, 0), 3);
    EXPECT_EQ(arena->recv(here.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC), 3U) << "how long the next datagram is";
    EXPECT_EQ(arena->write(there.get(), nullptr, 0), 0U);
    EXPECT_EQ(arena->writev(there.get(), {}), 0U);
    EXPECT_EQ(usage(*arena), "0 0");
}

TEST(ArenaIo, errors_of_the_call_come_back_as_they_are) {
    const auto arena = make_arena(8);
    const auto [here, there] = Pair::sockets(SOCK_DGRAM);
    EXPECT_TRUE(refused(arena->read(-1, arena->data(), 1), EBADF, "read of descriptor -1"));
    EXPECT_TRUE(refused(arena->recv(here.get(), arena->data(), 1, MSG_DONTWAIT), EAGAIN, "recv"));
    const std::array parts{part(arena->data(), 1)};
    msghdr message{};
    const auto fails = [&](os::Call call, auto&& function) {
        os::FailCall interrupted{call, EINTR};
        const os::ScopedFaultInjector scope{interrupted};
        return refused(function(), EINTR, "of descriptor");
    };
    const int fd = here.get();
    EXPECT_TRUE(fails(os::Call::read, [&] { return arena->read(fd, arena->data(), 1); }));
    EXPECT_TRUE(fails(os::Call::write, [&] { return arena->write(fd, arena->data(), 1); }));
    EXPECT_TRUE(fails(os::Call::read, [&] { return arena->pread(fd, arena->data(), 1, 0); }));
    EXPECT_TRUE(fails(os::Call::pwrite, [&] { return arena->pwrite(fd, arena->data(), 1, 0); }));
    EXPECT_TRUE(fails(os::Call::recv, [&] { return arena->recv(fd, arena->data(), 1); }));
    EXPECT_TRUE(fails(os::Call::send, [&] { return arena->send(fd, arena->data(), 1); }));
    EXPECT_TRUE(fails(os::Call::readv, [&] { return arena->readv(fd, parts); }));
    EXPECT_TRUE(fails(os::Call::writev, [&] { return arena->writev(fd, parts); }));
    EXPECT_TRUE(fails(os::Call::recvmsg, [&] { return arena->recvmsg(fd, message); }));
    EXPECT_TRUE(fails(os::Call::sendmsg, [&] { return arena->sendmsg(fd, message); }));
}

TEST(ArenaIo, with_segv_on_fault_absent_pages_are_refused_before_anything_is_consumed) {
    const auto arena = make_arena({.pages = PageCount{8}, .segv_on_fault = true});
    const auto [here, there] = Pair::sockets(SOCK_DGRAM);
    ASSERT_EQ(::send(there.get(), "abc", 3, 0), 3);
    EXPECT_TRUE(refused(arena->recv(here.get(), arena->data(), 3), EFAULT, "absent"));
    ASSERT_TRUE(arena->alloc_pages(PageCount{1}, {.address = arena->data()}));
    EXPECT_EQ(arena->recv(here.get(), arena->data(), 3), 3U);
}

TEST(ArenaIo, a_child_after_fork_is_told_so) {
    const auto arena = make_arena(8);
    EXPECT_TRUE(test::holds_in_child([&] {
        msghdr message{};
        EXPECT_TRUE(refused(arena->read(0, arena->data(), 1), EOWNERDEAD, "arena"));
        EXPECT_TRUE(refused(arena->write(0, nullptr, 0), EOWNERDEAD, "arena"));
        EXPECT_TRUE(refused(arena->readv(0, {}), EOWNERDEAD, "arena"));
        EXPECT_TRUE(refused(arena->recvmsg(0, message), EOWNERDEAD, "arena"));
    }));
}

}  // namespace
}  // namespace harena
