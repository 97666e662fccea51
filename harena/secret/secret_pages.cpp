// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_pages.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <new>

#include "harena/base/assert.hpp"
#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/secret/wipe.hpp"
#include "harena/vm/reservation.hpp"

namespace harena {

namespace {

constexpr PageCount k_most_pages{std::uint64_t{1} << 28};
constexpr std::uint64_t k_guard = k_page_size;

}  // namespace

std::byte* SecretWindow::data() const noexcept { return pages_ == nullptr ? nullptr : pages_->base_; }
std::size_t SecretWindow::size() const noexcept { return pages_ == nullptr ? 0 : pages_->bytes(); }

Result<void> SecretWindow::close() {
    if (pages_ == nullptr) return {};
    return std::exchange(pages_, nullptr)->close_one();
}

Result<std::unique_ptr<SecretPages>> SecretPages::create(PageCount pages, const Options& options) try {
    if (pages < PageCount{1} || pages > k_most_pages)
        return fail(EINVAL, "{} secret pages: it takes 1 to {}", pages.value(), k_most_pages.value());
    HARENA_TRY(const SecretBackend backend, choose_secret_backend(options.allow_mlock));
    const std::uint64_t bytes = bytes_of(pages);
    HARENA_TRY(std::byte* const base,
               reservation::reserve_anywhere(
                   {.bytes = bytes, .alignment = k_page_size, .guard_below = k_guard, .guard_above = k_guard}));
    std::unique_ptr<SecretPages> made{new (std::nothrow) SecretPages{pages, backend, base}};
    if (!made) {
        (void)os::munmap(base - k_guard, bytes + 2 * k_guard);
        return fail(ENOMEM, "no memory for the records of secret pages");
    }
    // What is mapped later is kept from children before the next fork: `secret_memory`.
    HARENA_TRY(NotInherited not_inherited, NotInherited::leaving_others(base - k_guard, bytes + 2 * k_guard));
    made->not_inherited_.emplace(std::move(not_inherited));
    HARENA_CHECK_OK(made->make_memory());
    return made;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of secret pages");
}

Result<void> SecretPages::make_memory() {
    shown_ = true;
    if (backend_ == SecretBackend::mlock) {
        HARENA_CHECK_OK(secret_memory::map(backend_, base_, bytes()));
        return hide();
    }
    HARENA_CHECK_OK(secret_memory::make_file(file_, bytes()));
    // Memory for all pages now, where it is an error that there is none, and not a signal at the first touch.
    HARENA_CHECK_OK(show());
    HARENA_CHECK_OK(secret_memory::touch(base_, bytes()));
    return hide();
}

SecretPages::~SecretPages() {
    if (fork_guard_.owner_dead()) return;  // others may have mapped something where the pages were
    precondition(windows_ == 0, "secret pages are destroyed while a window is open");
    if (show()) wipe(base_, bytes());
    secret_memory::end_reservation(not_inherited_, base_ - k_guard, bytes() + 2 * k_guard);
}

Result<void> SecretPages::show() {
    if (backend_ == SecretBackend::mlock) {
        if (const auto shown = os::mprotect(base_, bytes(), PROT_READ | PROT_WRITE); !shown)
            return map_error(shown.error(), "cannot open a window to secret pages");
    } else {
        const SecretForkGate no_fork;
        if (auto mapped = secret_memory::map_file(file_, base_, bytes()); !mapped) {
            (void)secret_memory::unmap(base_, bytes());
            return mapped;
        }
    }
    shown_ = true;
    return {};
}

Result<void> SecretPages::hide() {
    if (backend_ == SecretBackend::memfd_secret && secret_memory::unmap(base_, bytes())) {
        shown_ = false;
        return {};
    }
    const auto hidden = os::mprotect(base_, bytes(), PROT_NONE);
    if (!hidden) return map_error(hidden.error(), "cannot close the window to secret pages");
    shown_ = false;
    return {};
}

Result<SecretWindow> SecretPages::open() {
    HARENA_CHECK_OK(fork_guard_.check("the secret memory"));
    const std::lock_guard lock{mutex_};
    if (!shown_) HARENA_CHECK_OK(show());
    ++windows_;
    return SecretWindow{*this};
}

Result<void> SecretPages::close_one() {
    HARENA_CHECK_OK(fork_guard_.check("the secret memory"));
    const std::lock_guard lock{mutex_};
    if (--windows_ > 0) return {};
    return hide();
}

std::uint64_t SecretPages::windows() const {
    if (fork_guard_.owner_dead()) return 0;
    const std::lock_guard lock{mutex_};
    return windows_;
}

}  // namespace harena
