// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_space.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <new>

#include "harena/base/os/memory.hpp"
#include "harena/secret/wipe.hpp"
#include "harena/vm/reservation.hpp"

namespace harena {

namespace {

constexpr std::uint64_t k_guard_pages = 1;
constexpr std::uint64_t k_most_capacity = std::uint64_t{1} << 40;
/// A mapping for a span, and one for what is reserved after it.
constexpr std::uint64_t k_vmas_of_span = 2;

}  // namespace

SecretSpace::SecretSpace(const SecretSpaceOptions& options, std::byte* base, std::uint64_t pages)
    : options_{options}, base_{base}, pages_{pages}, free_{pages} {}

Result<std::unique_ptr<SecretSpace>> SecretSpace::create(const SecretSpaceOptions& options) {
    if (options.capacity < 2 * k_page_size || !is_aligned(options.capacity, k_page_size) ||
        options.capacity > k_most_capacity)
        return fail(EINVAL, "secret memory of {} bytes: it takes a multiple of {}, from {} to {}", options.capacity,
                    k_page_size, 2 * k_page_size, k_most_capacity);
    HARENA_TRY(
        std::byte* const base,
        reservation::reserve_anywhere(
            {.bytes = options.capacity, .alignment = k_page_size, .guard_below = k_page_size, .guard_above = 0}));
    const auto unmap_all = [&] { (void)os::munmap(base - k_page_size, options.capacity + k_page_size); };
    std::unique_ptr<SecretSpace> space;
    try {
        space.reset(new SecretSpace{options, base, options.capacity / k_page_size});
    } catch (const std::bad_alloc&) {
        unmap_all();
        return fail(ENOMEM, "no memory for the records of secret memory");
    }
    // What is mapped later is kept from children before the next fork: `secret_memory`.
    HARENA_TRY(NotInherited not_inherited,
               NotInherited::leaving_others(base - k_page_size, options.capacity + k_page_size));
    space->not_inherited_.emplace(std::move(not_inherited));
    return space;
}

SecretSpace::~SecretSpace() {
    if (fork_guard_.owner_dead()) return;  // others may have mapped something where the secrets were
    secret_memory::end_reservation(not_inherited_, base_ - k_page_size, (pages_ + k_guard_pages) * k_page_size);
}

Result<SecretSpan> SecretSpace::map(std::uint64_t pages) try {
    const std::lock_guard lock{mutex_};
    release_stuck();
    return map_locked(pages);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of {} pages of secrets", pages);
}

Result<SecretSpan> SecretSpace::map_locked(std::uint64_t pages) {
    const std::uint64_t vmas = 1 + k_vmas_of_span * (spans_ + 1);
    if (vmas > options_.max_vmas)
        return fail(ENOMEM,
                    "secret memory would have {} mappings and max_vmas is {}: free guarded and large secrets, or allow "
                    "more",
                    vmas, options_.max_vmas);
    stuck_.reserve(spans_ + 1);
    const auto first = pages < pages_ ? free_.take(pages + k_guard_pages) : std::nullopt;
    if (!first)
        return fail(ENOMEM, "no {} adjoining pages of addresses for secrets are free: the capacity is {} bytes", pages,
                    options_.capacity);
    const SecretSpan span{.begin = base_ + first->value() * k_page_size, .pages = pages};
    ++spans_;
    mapped_pages_ += pages;
    if (auto mapped = secret_memory::map(options_.backend, span.begin, span.bytes()); !mapped) {
        release(span);
        return pass_on(std::move(mapped).error());
    }
    return span;
}

void SecretSpace::unmap(const SecretSpan& span) noexcept {
    wipe(span.begin, span.bytes());
    const std::lock_guard lock{mutex_};
    release_stuck();
    release(span);
}

void SecretSpace::release(const SecretSpan& span) noexcept {
    if (!secret_memory::unmap(span.begin, span.bytes())) {
        stuck_.push_back(span);
        return;
    }
    secret_memory::join(span.begin, span.bytes());
    free_.give(VmPage{static_cast<std::uint64_t>(span.begin - base_) / k_page_size}, span.pages + k_guard_pages);
    --spans_;
    mapped_pages_ -= span.pages;
}

void SecretSpace::release_stuck() noexcept {
    for (std::size_t left = stuck_.size(); left > 0; --left) {
        const SecretSpan span = stuck_.back();
        stuck_.pop_back();
        release(span);
        if (!stuck_.empty() && stuck_.back().begin == span.begin) return;  // the kernel refuses still
    }
}

SecretSpace::Usage SecretSpace::usage() const {
    const std::lock_guard lock{mutex_};
    return {.locked_bytes = mapped_pages_ * k_page_size, .vmas = 1 + k_vmas_of_span * spans_};
}

}  // namespace harena
