// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_patcher.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>

#include "harena/base/chained_signal.hpp"
#include "harena/base/fault_context_x86_64.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/signal.hpp"
#include "harena/exec/text_registry.hpp"
#include "harena/exec/text_x86_64.hpp"

namespace harena {

namespace {

constinit ChainedSignal trap_signal{SIGTRAP};

// Signal handler.
bool handle(const siginfo_t& info, void* context) noexcept {
    if (info.si_code <= 0) return false;  // somebody sent it
    const std::uintptr_t trap = fault_context::instruction(context) - text_machine::k_trap_bytes;
    const auto record = text_registry::find(trap);
    if (!record || !record->patcher->answers_for(trap)) return false;
    fault_context::set_instruction(context, trap);
    return true;
}

void on_trap(int /*signal*/, siginfo_t* info, void* context) noexcept {
    const int saved_errno = errno;
    if (!handle(*info, context)) trap_signal.pass_on(info, context);
    errno = saved_errno;
}

// Once in a process, unless it failed.
Result<void> prepare_process() {
    static std::mutex mutex;
    static bool prepared = false;
    const std::lock_guard lock{mutex};
    if (prepared) return {};
    auto registered = os::register_core_sync();
    if (registered) registered = os::sync_all_cores();
    if (!registered)
        return fail(ENOTSUP, "live patching needs membarrier(2) with SYNC_CORE (Linux 4.16): {}",
                    os::describe(registered.error()));
    HARENA_CHECK_OK(trap_signal.install(&on_trap));
    prepared = true;
    return {};
}

}  // namespace

Result<void> TextPatcher::prepare() {
    if (places_.load(std::memory_order_acquire) != nullptr) return {};
    HARENA_CHECK_OK(prepare_process());
    const std::lock_guard lock{prepare_mutex_};
    if (places_memory_) return {};
    try {
        places_memory_.emplace(bytes_ / 64);
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory for the places of live patches in {} bytes of text", bytes_);
    }
    places_.store(places_memory_->data(), std::memory_order_release);
    return {};
}

Result<void> TextPatcher::sync_all_threads() {
    HARENA_CHECK_OK(prepare_process());
    if (const auto synced = os::sync_all_cores(); !synced)
        return os::fail_with(synced.error(), "membarrier(2) cannot make all threads see new text");
    return {};
}

bool TextPatcher::was_patched(std::uint64_t offset) const noexcept {
    Word* const places = places_.load(std::memory_order_acquire);
    if (places == nullptr) return false;
    return (std::atomic_ref{places[offset / 64]}.load(std::memory_order_acquire) >> (offset % 64) & 1) != 0;
}

void TextPatcher::forget(std::uint64_t offset, std::uint64_t bytes) noexcept {
    Word* const places = places_.load(std::memory_order_acquire);
    if (places == nullptr) return;
    const std::uint64_t end = offset + bytes;
    while (offset < end) {
        const std::uint64_t bit = offset % 64;
        const std::uint64_t here = std::min(end - offset, 64 - bit);
        const Word mask = (~Word{0} >> (64 - here)) << bit;
        const std::atomic_ref word{places[offset / 64]};
        // Most have none, and their memory is not there yet: it need not be made.
        if ((word.load(std::memory_order_relaxed) & mask) != 0) word.fetch_and(~mask, std::memory_order_release);
        offset += here;
    }
}

// Signal handler. The thread met a trap at `address`, a moment ago.
bool TextPatcher::answers_for(std::uintptr_t address) const noexcept {
    const std::uint64_t offset = address - reinterpret_cast<std::uintptr_t>(base_);
    for (;;) {
        if (!was_patched(offset)) return false;
        const std::uint64_t before = sequence_.load(std::memory_order_acquire);
        if (before % 2 == 1 && active_.load(std::memory_order_acquire) == offset) {
            os::yield_processor();
            return true;  // to meet it again, until it is gone
        }
        const std::byte now = *static_cast<const volatile std::byte*>(base_ + offset);
        std::atomic_thread_fence(std::memory_order_acquire);
        // Not a trap: the patch was finished since. Unless the piece was freed, and this is another's text.
        if (now != text_machine::k_trap) return was_patched(offset);
        if (sequence_.load(std::memory_order_acquire) == before) return false;
    }
}

Result<void> TextPatcher::patch(std::uint64_t offset, std::span<const std::byte> bytes) {
    constexpr std::size_t k_most = 64;
    std::array<std::byte, k_most> old;
    std::memcpy(old.data(), base_ + offset, bytes.size());
    const auto first = bytes.first(1);
    const auto rest = bytes.subspan(1);
    const auto write_rest = [&](const std::byte* from) -> Result<void> {
        return rest.empty() ? Result<void>{} : file_.write(offset + 1, {from, rest.size()});
    };
    const auto sync = []() -> Result<void> {
        if (const auto synced = os::sync_all_cores(); !synced)
            return os::fail_with(synced.error(), "text cannot be patched live: membarrier(2)");
        return {};
    };
    constexpr std::array k_trap{text_machine::k_trap};

    std::atomic_ref{places_.load(std::memory_order_acquire)[offset / 64]}.fetch_or(Word{1} << (offset % 64),
                                                                                   std::memory_order_release);
    active_.store(offset, std::memory_order_relaxed);
    sequence_.fetch_add(1, std::memory_order_acq_rel);  // threads that meet the trap wait from now on
    auto result = file_.write(offset, k_trap);
    if (result) result = sync();
    if (result) {
        result = write_rest(rest.data());
        if (result) result = sync();
        if (result) result = file_.write(offset, first);
        if (!result) {
            // As it was, in the same order; the first error is the one that counts.
            if (write_rest(old.data() + 1) && sync()) (void)file_.write(offset, std::span{old}.first(1));
        }
    } else {
        (void)file_.write(offset, std::span{old}.first(1));
    }
    sequence_.fetch_add(1, std::memory_order_acq_rel);
    if (result && !sync() && !sync())
        return fail(EPERM, "the text is patched, but threads may go on with what they fetched before: membarrier(2)");
    return result;
}

}  // namespace harena
