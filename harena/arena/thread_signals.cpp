// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "harena/arena/fault_handler.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/signal.hpp"
#include "harena/base/page_math.hpp"

namespace harena::fault_handler {

namespace {

/// Alternate signal stack of a thread that had none: given back when the thread ends.
class AlternateStack {
public:
    AlternateStack() noexcept = default;
    AlternateStack(const AlternateStack&) = delete;
    AlternateStack& operator=(const AlternateStack&) = delete;
    ~AlternateStack() { give_back(); }

    Result<void> set_up() {
        const auto result = try_set_up();
        if (!result) give_back();
        return result;
    }

private:
    static constexpr std::size_t k_handler_bytes = 4 * k_kib;
    static constexpr std::size_t k_mapping_bytes = 64 * k_kib + k_page_size;
    [[nodiscard]] void* usable() const noexcept { return static_cast<std::byte*>(mapping_) + k_page_size; }

    void give_back() noexcept {
        if (mapping_ == nullptr) return;
        // Somebody may have installed another one since: leave that alone.
        const auto current = os::sigaltstack(nullptr);
        if (current && current->ss_sp == usable()) {
            stack_t none{};
            none.ss_flags = SS_DISABLE;
            (void)os::sigaltstack(&none);
        }
        (void)os::munmap(std::exchange(mapping_, nullptr), k_mapping_bytes);
    }

    Result<void> try_set_up() {
        const auto current = os::sigaltstack(nullptr);
        if (!current) return os::fail_with(current.error(), "cannot ask for the alternate signal stack");
        if ((current->ss_flags & SS_DISABLE) == 0) {
            // The kernel's frame, whose size depends on the processor, and the handler's own.
            const std::size_t needed = os::minimal_signal_stack() + k_handler_bytes;
            if (current->ss_size >= needed) return {};
            return fail(EINVAL,
                        "this thread's alternate signal stack has {} bytes and the fault handler needs {}: install a "
                        "larger one (sigaltstack), or none",
                        current->ss_size, needed);
        }
        const auto mapping =
            os::mmap(nullptr, k_mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (!mapping) return os::fail_with(mapping.error(), "no memory for an alternate signal stack");
        mapping_ = *mapping;
        if (const auto guarded = os::mprotect(mapping_, k_page_size, PROT_NONE); !guarded)
            return os::fail_with(guarded.error(), "cannot guard the alternate signal stack");
        stack_t stack{};
        stack.ss_sp = usable();
        stack.ss_size = k_mapping_bytes - k_page_size;
        if (const auto installed = os::sigaltstack(&stack); !installed)
            return os::fail_with(installed.error(), "cannot install an alternate signal stack");
        return {};
    }

    void* mapping_ = nullptr;
};

}  // namespace

Result<void> prepare_thread() {
    thread_local bool prepared = false;
    thread_local AlternateStack stack;
    if (prepared) return {};
    const auto blocked = os::thread_sigmask(SIG_BLOCK, nullptr);
    if (!blocked) return os::fail_with(blocked.error(), "cannot ask for the blocked signals");
    for (const int signal : {SIGBUS, SIGSEGV})
        if (sigismember(&*blocked, signal) == 1)
            return fail(EPERM,
                        "this thread blocks {}, which tells absent arena pages: unblock it (pthread_sigmask) before "
                        "running programs",
                        signal == SIGBUS ? "SIGBUS" : "SIGSEGV");
    HARENA_CHECK_OK(stack.set_up());
    prepared = true;
    return {};
}

}  // namespace harena::fault_handler
