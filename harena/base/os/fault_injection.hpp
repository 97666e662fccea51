// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace harena::os {

/// The system calls that harena makes, by the name a fault injector knows them under.
enum class Call : std::uint8_t {
    mmap,
    munmap,
    mremap,
    mprotect,
    mlock,
    munlock,
    madvise,
    memfd_create,
    memfd_secret,
    ftruncate,
    fallocate,
    pwrite,
    add_seals,
    get_seals,
    mincore,
    file_lock,
    symlink,
    unlink,
    getrlimit,
    getrandom,
    mbind,
    membarrier,
    poll,
    eventfd,
    userfaultfd,
    uffd_api,
    uffd_register,
    uffd_unregister,
    uffd_zeropage,
    uffd_copy,
    sigaction,
    sigaltstack,
    sigmask,
    open,
    read,
    write,
    readv,
    writev,
    recv,
    send,
    recvmsg,
    sendmsg,
    stat,
    pagemap_scan,
    spawn,
    bpf_map_create,
    bpf_map_element,
    bpf_map_freeze,
    bpf_btf_load,
    bpf_program_load,
    bpf_program_run,
    bpf_program_info,
    bpf_attach,
    count_,
};

/// The test double of the operating system: decides for each call whether it fails before it is made.
class FaultInjector {
public:
    FaultInjector() = default;
    FaultInjector(const FaultInjector&) = delete;
    FaultInjector& operator=(const FaultInjector&) = delete;
    virtual ~FaultInjector() = default;

    /// The errno value that `call` shall fail with, or 0 to let it be made. Called on any thread, in signal handlers
    /// too.
    virtual int on_call(Call call) noexcept = 0;
};

/// Puts `injector` in front of every system call of the process as long as this object lives. One at a time.
class ScopedFaultInjector {
public:
    explicit ScopedFaultInjector(FaultInjector& injector) noexcept;
    ScopedFaultInjector(const ScopedFaultInjector&) = delete;
    ScopedFaultInjector& operator=(const ScopedFaultInjector&) = delete;
    ~ScopedFaultInjector();
};

/// Lets the first `skip` calls of kind `call` pass and fails the one after, or that and all later ones.
class FailCall final : public FaultInjector {
public:
    enum class Repeat : std::uint8_t { once, always };

    FailCall(Call call, int error, std::uint64_t skip = 0, Repeat repeat = Repeat::once) noexcept
        : call_{call}, error_{error}, skip_{skip}, repeat_{repeat} {}

    int on_call(Call call) noexcept override {
        if (call != call_) return 0;
        const std::uint64_t number = seen_.fetch_add(1, std::memory_order_relaxed);
        const bool fails = repeat_ == Repeat::once ? number == skip_ : number >= skip_;
        return fails ? error_ : 0;
    }

    /// How many calls of the kind there were. At most `skip` means that none failed.
    [[nodiscard]] std::uint64_t seen() const noexcept { return seen_.load(std::memory_order_relaxed); }

private:
    Call call_;
    int error_;
    std::uint64_t skip_;
    Repeat repeat_;
    std::atomic<std::uint64_t> seen_{0};
};

namespace detail {
extern std::atomic<FaultInjector*> injector;

/// The errno that the installed injector wants `call` to fail with; 0 without one.
[[nodiscard]] inline int injected(Call call) noexcept {
    FaultInjector* const current = injector.load(std::memory_order_acquire);
    return current == nullptr ? 0 : current->on_call(call);
}
}  // namespace detail

}  // namespace harena::os
