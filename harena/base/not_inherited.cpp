// SPDX-License-Identifier: Apache-2.0
#include "harena/base/not_inherited.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "harena/base/fork.hpp"
#include "harena/base/immortal.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/signal_safe_registry.hpp"

namespace harena {

namespace {

struct Range {
    std::uint64_t begin;
    std::uint64_t bytes;
};

constinit Immortal<SignalSafeRegistry<Range>> ranges;

void before_fork() noexcept { ranges.value.lock(); }
void after_fork_in_parent() noexcept { ranges.value.unlock(); }
void after_fork_in_child() noexcept {
    // MAP_FIXED: the range is a hole, or, if the fork came before the advice, what shall not be here.
    ranges.value.for_each([](const Range& range) {
        (void)os::mmap(reinterpret_cast<void*>(range.begin), range.bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    });
    ranges.value.unlock();
}

}  // namespace

Result<void> NotInherited::prepare() {
    static const Result<void> fork_rules =
        at_fork({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child});
    return fork_rules;
}

Result<NotInherited> NotInherited::of(void* address, std::size_t bytes) {
    HARENA_CHECK_OK(prepare());
    HARENA_TRY(void* const handle,
               ranges.value.add({.begin = reinterpret_cast<std::uint64_t>(address), .bytes = bytes}));
    NotInherited guard{handle, address, bytes};
    HARENA_CHECK_OK(guard.replaced());
    return guard;
}

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
