// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_memory.hpp"

#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <string>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

namespace {

bool absent_or_refused(os::SysError error) noexcept {
    return error.code == ENOSYS || error.code == EPERM || error.code == EACCES;
}

std::unexpected<Error> no_memfd_secret(os::SysError error) {
    if (!absent_or_refused(error)) return os::fail_with(error, "cannot make a file of secret memory (memfd_secret)");
    return fail(error.code,
                "memfd_secret cannot be had here ({}): {}; or allow mlock, whose memory debuggers and /proc/self/mem "
                "can read",
                os::describe(error),
                error.code == ENOSYS ? "it takes Linux 5.14 or later, before 6.5 started with secretmem.enable=1"
                                     : "a sandbox forbids it; let its seccomp filter pass the call");
}

std::string memlock_limit() {
    const auto limit = os::getrlimit(RLIMIT_MEMLOCK);
    if (!limit) return "not known";
    return *limit == RLIM_INFINITY ? "unlimited" : fmt::format("{} bytes", *limit);
}

/// The error of a mapping that counts as locked memory.
std::unexpected<Error> fail_to_map(os::SysError error, std::size_t bytes) {
    if (error.code == EAGAIN)
        return fail(EAGAIN,
                    "cannot lock {} bytes more for secrets: the limit RLIMIT_MEMLOCK is {}; raise it (ulimit -l, "
                    "LimitMEMLOCK= of systemd), or grant CAP_IPC_LOCK",
                    bytes, memlock_limit());
    return map_error(error, "cannot map {} bytes for secrets", bytes);
}

Result<void> keep_from_children(std::byte* at, std::size_t bytes) {
    if (const auto kept = os::madvise(at, bytes, MADV_DONTFORK); !kept)
        return os::fail_with(kept.error(), "cannot keep secret memory from forked children");
    return {};
}

Result<os::FileDescriptor> make_secret_file(std::size_t bytes) {
    auto file = os::memfd_secret();
    if (!file) return no_memfd_secret(file.error());
    if (const auto sized = os::ftruncate(file->get(), bytes); !sized)
        return os::fail_with(sized.error(), "cannot size a file of secret memory");
    return *std::move(file);
}

Result<void> map_secret_file(int fd, std::byte* at, std::size_t bytes) {
    const auto mapped = os::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (!mapped) return fail_to_map(mapped.error(), bytes);
    return keep_from_children(at, bytes);
}

Result<void> map_locked_memory(std::byte* at, std::size_t bytes) {
    {
        const SecretForkGate no_fork;
        const auto mapped = os::mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (!mapped) return fail_to_map(mapped.error(), bytes);
        HARENA_CHECK_OK(keep_from_children(at, bytes));
    }
    if (const auto kept = os::madvise(at, bytes, MADV_DONTDUMP); !kept)
        return os::fail_with(kept.error(), "cannot keep secret memory out of core dumps");
    // The kernel says ENOMEM, EPERM or EAGAIN for one limit.
    if (const auto locked = os::mlock(at, bytes); !locked) return fail_to_map({EAGAIN}, bytes);
    return {};
}

}  // namespace

std::string_view name_of(SecretBackend backend) noexcept {
    return backend == SecretBackend::memfd_secret ? "memfd_secret" : "mlock";
}

Result<SecretBackend> choose_secret_backend(bool allow_mlock) {
    HARENA_CHECK_OK(SecretForkGate::prepare());
    const SecretForkGate no_fork;
    const auto file = os::memfd_secret();
    if (file) return SecretBackend::memfd_secret;
    if (allow_mlock && absent_or_refused(file.error())) return SecretBackend::mlock;
    return no_memfd_secret(file.error());
}

namespace secret_memory {

Result<void> map(SecretBackend backend, std::byte* at, std::size_t bytes) {
    if (backend == SecretBackend::mlock) return map_locked_memory(at, bytes);
    {
        const SecretForkGate no_fork;
        HARENA_TRY(const os::FileDescriptor file, make_secret_file(bytes));
        HARENA_CHECK_OK(map_secret_file(file.get(), at, bytes));
    }
    return touch(at, bytes);
}

Result<void> touch(std::byte* at, std::size_t bytes) {
    for (std::byte* page = at; page != at + bytes; page += k_page_size) {
        const auto touched = os::fill_random(page, 1);
        if (!touched && touched.error().code == EFAULT) return fail(ENOMEM, "no memory for {} bytes of secrets", bytes);
        if (!touched) return os::fail_with(touched.error(), "no random bytes for secret memory (getrandom)");
        *page = std::byte{0};
    }
    return {};
}

Result<void> make_file(HeldSecretFile& file, std::size_t bytes) {
    const SecretForkGate no_fork;
    HARENA_TRY(os::FileDescriptor made, make_secret_file(bytes));
    return file.hold(std::move(made));
}

Result<void> map_file(const HeldSecretFile& file, std::byte* at, std::size_t bytes) {
    HARENA_CHECK_OK(file.check());
    return map_secret_file(file.get(), at, bytes);
}

os::SysResult<void> unmap(std::byte* at, std::size_t bytes) noexcept {
    const auto reserved =
        os::mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (!reserved) return std::unexpected{reserved.error()};
    return {};
}

// They are kept from children, so what is of them must be, too.
void join(std::byte* at, std::size_t bytes) noexcept { (void)os::madvise(at, bytes, MADV_DONTFORK); }

void end_reservation(std::optional<NotInherited>& guard, std::byte* at, std::size_t bytes) noexcept {
    // If the kernel refuses, the memory goes before its guard: better that a child has a hole there than the secrets.
    const bool reserved = unmap(at, bytes).has_value();
    if (!reserved) (void)os::munmap(at, bytes);
    guard.reset();
    if (reserved) (void)os::munmap(at, bytes);
}

}  // namespace secret_memory

}  // namespace harena
