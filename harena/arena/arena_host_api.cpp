// SPDX-License-Identifier: Apache-2.0
//
// The host's calls: every misuse is an error that names it.
#include <cerrno>

#include "harena/arena/process_arena.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

Result<PageRange> Arena::checked_range(const void* address, PageCount count) const {
    const auto at = reinterpret_cast<std::uint64_t>(address);
    const std::uint64_t start = user_vm_start().value();
    if (count == PageCount{0}) return fail(EINVAL, "0 pages at {:#x}", at);
    if (!is_aligned(at, k_page_size)) return fail(EINVAL, "{:#x} is not the start of a page", at);
    const std::uint64_t first = (at - start) / k_page_size;
    if (at < start || first >= pages().value() || count.value() > pages().value() - first)
        return fail(ERANGE, "{} pages at {:#x} are not inside arena '{}' ({:#x}-{:#x})", count.value(), at, name(),
                    start, start + size());
    return PageRange::of(PageIndex{first}, count);
}

Result<void*> ProcessArena::alloc_pages(PageCount count, const AllocOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    if (count == PageCount{0}) return fail(EINVAL, "cannot allocate 0 pages");
    if (count > pages())
        return fail(E2BIG, "cannot allocate {} pages: arena '{}' has {}", count.value(), name(), pages().value());
    if (options.node != -1 && !os::numa_node_online(options.node))
        return fail(EINVAL, "NUMA node {} is not online", options.node);
    std::optional<PageIndex> at;
    if (options.address != nullptr) {
        HARENA_TRY(const PageRange range, checked_range(options.address, count));
        at = range.begin;
    }
    const auto allocated = allocate(at, count);
    if (allocated) return address_of(*allocated);
    if (allocated.error() == EBUSY)
        return fail(EBUSY, "a page of the {} at {} is in use or reserved", count.value(), options.address);
    return fail(ENOMEM, "arena '{}' has no {} adjoining free pages, or the machine has no memory for them", name(),
                count.value());
}

Result<void> ProcessArena::free_pages(void* address, PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    if (address == nullptr) return fail(EINVAL, "cannot free pages at null");
    HARENA_TRY(const PageRange range, checked_range(address, count));
    for (PageIndex page = range.begin; page < range.end; page = page + PageCount{1}) {
        const PageState state = presence_->states().load(page);
        if (state != PageState::used && state != PageState::reserved)
            return fail(EINVAL, "the page at {} is free already (a double free?)", address_of(page));
    }
    if (const auto released = release(range); !released)
        return os::fail_with({released.error()},
                             fmt::format("some of the {} pages at {} stay allocated", count.value(), address));
    return {};
}

Result<void> ProcessArena::reserve_pages(void* address, PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    HARENA_TRY(const PageRange range, checked_range(address, count));
    const auto reserved = reserve(range);
    if (reserved) return {};
    if (reserved.error() == EBUSY)
        return fail(EBUSY, "a page of the {} at {} is in use or reserved", count.value(), address);
    return fail(reserved.error(), "no memory to keep the arena's free ranges");
}

Result<void> ProcessArena::populate(const void* address, std::uint64_t bytes) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    const std::uint64_t offset = at - user_vm_start().value();
    if (bytes > size() || offset > size() - bytes)
        return fail(ERANGE, "{} bytes at {:#x} are not inside arena '{}'", bytes, at, name());
    if (bytes == 0) return {};
    for (std::uint64_t o = align_down(offset, k_page_size); o < offset + bytes; o += k_page_size) {
        const PageIndex page{o / k_page_size};
        while (presence_->states().load(page) != PageState::used) {
            const FaultAnswer answer = presence_->host_fault(user_vm_start().value() + o, false);
            if (answer == FaultAnswer::refuse && segv_on_fault())
                return fail(EFAULT, "the page at {} is absent and the arena was made with segv_on_fault",
                            address_of(page));
            if (answer == FaultAnswer::refuse) return fail(ENOMEM, "no memory for the page at {}", address_of(page));
            if (presence_->states().load(page) == PageState::reserved) break;  // populated, and still reserved
        }
    }
    return {};
}

}  // namespace harena
