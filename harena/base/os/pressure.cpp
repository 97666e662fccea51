// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/pressure.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

#include "harena/base/os/invoke.hpp"

namespace harena::os {

using detail::invoke;

SysResult<FileDescriptor> open_pressure_trigger(const std::string& file, std::uint64_t stall_us,
                                                std::uint64_t window_us) noexcept {
    if (const int error = detail::injected(Call::open)) return sys_fail(error);
    FileDescriptor trigger{::open(file.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC)};
    if (trigger.get() < 0) return sys_fail(errno);
    std::array<char, 64> text{};
    const auto end = fmt::format_to_n(text.data(), text.size() - 1, "some {} {}", stall_us, window_us);
    // With the zero byte at the end.
    if (auto written =
            invoke(Call::write, [&] { return static_cast<int>(::write(trigger.get(), text.data(), end.size + 1)); });
        !written)
        return std::unexpected{written.error()};
    return trigger;
}

SysResult<FileDescriptor> eventfd() noexcept {
    if (const int error = detail::injected(Call::eventfd)) return sys_fail(error);
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return sys_fail(errno);
    return FileDescriptor{fd};
}

SysResult<void> wake(int eventfd) noexcept {
    const std::uint64_t one = 1;
    return invoke(Call::write, [&] { return static_cast<int>(::write(eventfd, &one, sizeof one)); });
}

SysResult<Woken> wait_for_event(int trigger, int stop) noexcept {
    std::array<pollfd, 2> waiting{pollfd{.fd = trigger, .events = POLLPRI, .revents = 0},
                                  pollfd{.fd = stop, .events = POLLIN, .revents = 0}};
    for (;;) {
        if (const int error = detail::injected(Call::poll)) return sys_fail(error);
        const int ready = ::poll(waiting.data(), waiting.size(), -1);
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0) return sys_fail(errno);
        if (waiting[1].revents != 0) return Woken::by_wake;
        if ((waiting[0].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) return Woken::by_end;
        if ((waiting[0].revents & POLLPRI) != 0) return Woken::by_event;
    }
}

}  // namespace harena::os
