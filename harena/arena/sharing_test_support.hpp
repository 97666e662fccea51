// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>

#include <gtest/gtest.h>

#include "harena/arena/process_arena.hpp"

/// What the tests of arenas with several processes share.
namespace harena::test {

/// Another process, and a socket to it: a child after fork that runs `body(peer)` and ends, with what it was told to
/// expect. Killed with this object, if it runs on.
class Peer {
public:
    explicit Peer(const std::function<void(Peer&)>& body) {
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        (void)std::fflush(nullptr);
        process_ = ::fork();
        socket_ = ends[process_ == 0 ? 1 : 0];
        ::close(ends[process_ == 0 ? 0 : 1]);
        if (process_ != 0) return;
        ::alarm(60);  // nobody waits for it for ever
        body(*this);
        (void)std::fflush(nullptr);
        ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;
    ~Peer() {
        kill();
        ::close(socket_);
    }

    template <typename T>
        requires std::is_trivially_copyable_v<T>
    void send(const T& value) {
        EXPECT_EQ(::send(socket_, &value, sizeof value, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof value));
    }
    /// Waits for it; zero and a failed test if the other one has ended instead.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    T receive() {
        T value{};
        EXPECT_EQ(::recv(socket_, &value, sizeof value, MSG_WAITALL), static_cast<ssize_t>(sizeof value));
        return value;
    }
    /// The other side goes on behind its `wait`.
    void tell() { send('!'); }
    void wait() { EXPECT_EQ(receive<char>(), '!'); }

    void send_descriptor(int fd) {
        Message message;
        const auto header = message.header();
        cmsghdr* const control = CMSG_FIRSTHDR(&header);
        *control = {.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        std::memcpy(CMSG_DATA(control), &fd, sizeof fd);
        EXPECT_EQ(::sendmsg(socket_, &header, MSG_NOSIGNAL), 1);
    }
    /// The caller closes it.
    int receive_descriptor() {
        Message message;
        auto header = message.header();
        int fd = -1;
        EXPECT_EQ(::recvmsg(socket_, &header, MSG_CMSG_CLOEXEC), 1);
        if (const cmsghdr* const control = CMSG_FIRSTHDR(&header); control != nullptr)
            std::memcpy(&fd, CMSG_DATA(control), sizeof fd);
        return fd;
    }

    /// At whatever instruction it is; it is gone when this returns.
    void kill() {
        if (process_ <= 0) return;
        (void)::kill(process_, SIGKILL);
        (void)::waitpid(process_, nullptr, 0);
        process_ = 0;
    }
    /// Waits for its end: whether no expectation failed there.
    bool ends_well() {
        int status = -1;
        EXPECT_EQ(::waitpid(process_, &status, 0), process_);
        process_ = 0;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    [[nodiscard]] pid_t process() const { return process_; }

private:
    struct Message {
        char byte = '!';
        iovec part{.iov_base = &byte, .iov_len = 1};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};

        msghdr header() {
            msghdr made{};
            made.msg_iov = &part;
            made.msg_iovlen = 1;
            made.msg_control = control.data();
            made.msg_controllen = control.size();
            return made;
        }
    };

    pid_t process_ = 0;
    int socket_ = -1;
};

/// In a child: takes part in its parent's arena, in the place of what it inherited, or a failed test and null.
inline std::shared_ptr<ProcessArena> attach_instead(std::shared_ptr<ProcessArena>& inherited, int fd,
                                                    const AttachOptions& options = {}) {
    inherited.reset();
    auto attached = ProcessArena::attach(fd, options);
    if (attached) return std::move(*attached);
    ADD_FAILURE() << attached.error().message();
    return nullptr;
}

/// A descriptor for others, or a failed test and an empty one.
inline os::FileDescriptor shared_descriptor(ProcessArena& arena) {
    auto fd = arena.share_fd();
    if (fd) return std::move(*fd);
    ADD_FAILURE() << fd.error().message();
    return {};
}

inline std::uint32_t processes(ProcessArena& arena) { return arena.statistics().value().processes; }

}  // namespace harena::test
