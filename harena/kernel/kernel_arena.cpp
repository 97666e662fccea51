// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/kernel_arena.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena::kernel {

namespace {
// Source: Linux, include/uapi/linux/bpf.h.
constexpr std::uint32_t k_segv_on_fault = 1U << 17;
constexpr std::uint32_t k_no_user_conv = 1U << 18;
}  // namespace

Result<std::shared_ptr<KernelArena>> KernelArena::create(const bpf::MapDefinition& definition) try {
    HARENA_TRY(ArenaMapping mapping, ArenaMapping::create(definition));
    HARENA_TRY(ArenaCalls calls, ArenaCalls::create(mapping.fd()));
    const ArenaOptions options{.name = definition.name,
                               .pages = PageCount{definition.max_entries},
                               .user_vm_start = UserAddress{reinterpret_cast<std::uint64_t>(mapping.data())},
                               .segv_on_fault = (definition.flags & k_segv_on_fault) != 0,
                               .no_user_conv = (definition.flags & k_no_user_conv) != 0};
    return std::shared_ptr<KernelArena>{new KernelArena{options, std::move(mapping), std::move(calls)}};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "arena '{}': no memory", definition.name);
}

Result<void*> KernelArena::alloc_pages(PageCount count, const AllocOptions& options) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    if (count.value() == 0) return fail(EINVAL, "arena '{}': page count is 0", name());
    if (count > pages())
        return fail(E2BIG, "arena '{}': {} pages wanted, it has {}", name(), count.value(), pages().value());
    if (options.node != -1 && !os::numa_node_online(options.node))
        return fail(EINVAL, "arena '{}': node {} is not online", name(), options.node);
    if (options.address != nullptr) HARENA_CHECK_OK(checked_range(options.address, count));
    HARENA_TRY(const std::uint64_t address,
               calls_.alloc_pages(reinterpret_cast<std::uint64_t>(options.address),
                                  static_cast<std::uint32_t>(count.value()), options.node));
    if (address != 0) return reinterpret_cast<void*>(address);
    if (options.address != nullptr)
        return fail(EBUSY, "arena '{}': a page of the {} at {} is in use or reserved, or no memory is left", name(),
                    count.value(), fmt::ptr(options.address));
    return fail(ENOMEM, "arena '{}': no {} adjoining free pages, or no memory", name(), count.value());
}

Result<void> KernelArena::free_pages(void* address, PageCount count) try {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    HARENA_TRY(const PageRange range, checked_range(address, count));
    HARENA_TRY(const std::vector<bool> has_memory, present(range));
    for (std::size_t i = 0; i < has_memory.size(); ++i) {
        if (has_memory[i]) continue;
        // Reserved, or free: a free page can be reserved.
        void* const page = address_of(range.begin + PageCount{i});
        HARENA_TRY(const std::int32_t reserved, calls_.reserve_pages(reinterpret_cast<std::uint64_t>(page), 1));
        if (reserved != 0) continue;
        HARENA_CHECK_OK(calls_.free_pages(reinterpret_cast<std::uint64_t>(page), 1));
        return fail(EINVAL, "arena '{}': page {} is free already; nothing was freed", name(), fmt::ptr(page));
    }
    return calls_.free_pages(reinterpret_cast<std::uint64_t>(address), static_cast<std::uint32_t>(count.value()));
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "arena '{}': no memory to look at {} pages", name(), count.value());
}

Result<void> KernelArena::reserve_pages(void* address, PageCount count) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    HARENA_CHECK_OK(checked_range(address, count));
    HARENA_TRY(const std::int32_t result, calls_.reserve_pages(reinterpret_cast<std::uint64_t>(address),
                                                               static_cast<std::uint32_t>(count.value())));
    if (result == 0) return {};
    return fail(-result, "arena '{}': {} pages at {} cannot be reserved: {}", name(), count.value(), fmt::ptr(address),
                result == -EBUSY ? "a page is in use or reserved" : os::describe({-result}));
}

Result<void> KernelArena::populate(const void* address, std::uint64_t bytes) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    if (bytes == 0) return {};
    const auto at = reinterpret_cast<std::uint64_t>(address);
    const std::uint64_t begin = user_vm_start().value();
    if (at < begin || at - begin >= size() || bytes > size() - (at - begin))
        return fail(ERANGE, "arena '{}': {} bytes at {:#x} are not all in it", name(), bytes, at);
    const std::uint64_t first = align_down(at, k_page_size);
    const auto populated = os::madvise(reinterpret_cast<void*>(first), align_up(at + bytes, k_page_size) - first,
                                       os::k_madv_populate_write);
    if (!populated)
        return os::fail_with(populated.error(),
                             fmt::format("arena '{}': {} bytes at {:#x} cannot be populated", name(), bytes, at));
    return {};
}

Result<void> KernelArena::promote(void* /*address*/, PageCount /*count*/) {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    return fail(ENOTSUP, "arena '{}': Linux's arenas have pages of 4 KiB only", name());
}

Result<std::vector<ArenaRange>> KernelArena::snapshot() {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    return fail(ENOTSUP, "arena '{}': Linux does not tell who has a page of an arena", name());
}

Result<const PresenceProbe*> KernelArena::probe() try {
    HARENA_CHECK_OK(fork_guard_.check("the arena"));
    const std::lock_guard lock{mutex_};
    if (!probe_) probe_.emplace(PresenceProbe::create(mapping_.fd()));
    if (!*probe_) return pass_on(probe_->error());
    return &**probe_;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "arena '{}': no memory for a program that looks at pages", name());
}

Result<std::vector<bool>> KernelArena::present(PageRange pages) try {
    HARENA_TRY(const PresenceProbe* const looker, probe());
    return looker->present(user_vm_start().value(), pages);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "arena '{}': no memory to look at {} pages", name(), pages.count().value());
}

Result<std::uint64_t> KernelArena::kernel_base() {
    HARENA_TRY(const PresenceProbe* const looker, probe());
    return looker->kernel_base();
}

Result<ArenaStatistics> KernelArena::statistics() try {
    HARENA_TRY(const std::vector<bool> has_memory, present(PageRange::of(PageIndex{}, pages())));
    ArenaStatistics statistics{};
    statistics.pages = pages();
    statistics.used = PageCount{static_cast<std::uint64_t>(std::ranges::count(has_memory, true))};
    return statistics;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "arena '{}': no memory to look at its pages", name());
}

}  // namespace harena::kernel
