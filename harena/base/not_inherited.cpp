// SPDX-License-Identifier: Apache-2.0
#include "harena/base/not_inherited.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "harena/base/fork.hpp"
#include "harena/base/immortal.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/signal_safe_registry.hpp"

namespace harena {

namespace {

struct Range {
    std::uint64_t begin;
    std::uint64_t bytes;
    std::uint64_t leave_others;
};

constexpr int k_reservation = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// Reserves what is free of a range, in parts if something is in the way: as small as 2^-`splits` of it.
void reserve_free(std::uint64_t begin, std::uint64_t bytes, int splits) noexcept {
    auto* const wanted = reinterpret_cast<void*>(begin);
    const auto mapped = os::mmap(wanted, bytes, PROT_NONE, k_reservation | MAP_FIXED_NOREPLACE, -1, 0);
    if (mapped && *mapped == wanted) return;
    if (mapped) (void)os::munmap(*mapped, bytes);  // a kernel before 4.17 takes the address as a hint only
    const std::uint64_t half = align_down(bytes / 2, k_page_size);
    if (splits == 0 || half == 0) return;
    reserve_free(begin, half, splits - 1);
    reserve_free(begin + half, bytes - half, splits - 1);
}

constinit Immortal<SignalSafeRegistry<Range>> ranges;

void before_fork() noexcept { ranges.value.lock(); }
void after_fork_in_parent() noexcept { ranges.value.unlock(); }
void after_fork_in_child() noexcept {
    // MAP_FIXED: the range is a hole, or, if the fork came before the advice, what shall not be here.
    ranges.value.for_each([](const Range& range) {
        constexpr int k_splits = 8;
        if (range.leave_others != 0)
            reserve_free(range.begin, range.bytes, k_splits);
        else
            (void)os::mmap(reinterpret_cast<void*>(range.begin), range.bytes, PROT_NONE, k_reservation | MAP_FIXED, -1,
                           0);
    });
    ranges.value.unlock();
}

}  // namespace

Result<void> NotInherited::prepare() {
    static ForkRules rules;
    return rules.ensure({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child});
}

Result<NotInherited> NotInherited::add(void* address, std::size_t bytes, bool leave_others) {
    HARENA_CHECK_OK(prepare());
    HARENA_TRY(void* const handle, ranges.value.add({.begin = reinterpret_cast<std::uint64_t>(address),
                                                     .bytes = bytes,
                                                     .leave_others = leave_others ? 1U : 0U}));
    return NotInherited{handle, address, bytes};
}

Result<NotInherited> NotInherited::of(void* address, std::size_t bytes) {
    HARENA_TRY(NotInherited guard, add(address, bytes, false));
    HARENA_CHECK_OK(guard.replaced());
    return guard;
}

Result<NotInherited> NotInherited::leaving_others(void* address, std::size_t bytes) {
    HARENA_TRY(NotInherited guard, add(address, bytes, true));
    HARENA_CHECK_OK(guard.replaced());
    return guard;
}

Result<NotInherited> NotInherited::after_fork(void* address, std::size_t bytes) { return add(address, bytes, false); }

Result<void> NotInherited::replaced() const {
    if (const auto advised = os::madvise(address_, bytes_, MADV_DONTFORK); !advised)
        return os::fail_with(advised.error(), fmt::format("cannot keep {} bytes at {} from forked children", bytes_,
                                                          fmt::ptr(address_)));
    return {};
}

NotInherited::NotInherited(NotInherited&& other) noexcept
    : handle_{std::exchange(other.handle_, nullptr)}, address_{other.address_}, bytes_{other.bytes_} {}

NotInherited::~NotInherited() {
    if (handle_ == nullptr) return;
    (void)os::madvise(address_, bytes_, MADV_DOFORK);
    ranges.value.remove(handle_);
}

}  // namespace harena
