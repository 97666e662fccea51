// SPDX-License-Identifier: Apache-2.0
//
// How an arena of this process begins and ends. Its sharing: arena_sharing.cpp; what the host and programs ask of it:
// arena_host_api.cpp, arena_kfuncs.cpp.
#include "harena/arena/process_arena.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <new>
#include <utility>

#include "harena/arena/nofault.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/shared_file.hpp"

namespace harena {

namespace {

Result<void> check(const ArenaOptions& options) {
    const std::uint64_t start = options.user_vm_start.value();
    if (options.pages == PageCount{0})
        return fail(EINVAL, "arena '{}': 0 pages; an arena has at least one", options.name);
    if (!is_aligned(start, k_page_size))
        return fail(EINVAL, "arena '{}': user_vm_start {:#x} is not a multiple of the page size", options.name, start);
    if (options.pages > Arena::k_max_pages)
        return fail(E2BIG, "arena '{}': {} pages are more than 4 GiB (1048576 pages)", options.name,
                    options.pages.value());
    if (const std::uint64_t last = start + harena::bytes_of(options.pages) - 1; start >> 32 != last >> 32)
        return fail(ERANGE, "arena '{}': {:#x}-{:#x} crosses a 4 GiB boundary", options.name, start, last + 1);
    return {};
}

// Where in a window of its own an arena goes that may be anywhere: not at pointer 0, if it can be helped, since a user
// pointer with 32 zero bits is NULL to a program.
std::uint64_t chosen_offset(PageCount pages) noexcept {
    return harena::bytes_of(pages) <= Window::k_bytes - k_huge_page_size ? k_huge_page_size : 0;
}

bool has_userfaultfd() { return os::userfaultfd().has_value(); }

}  // namespace

ProcessArena::ProcessArena(const ArenaOptions& options, Window window)
    : Arena{options}, window_{std::move(window)}, charges_{options.pages} {}

Result<std::shared_ptr<ProcessArena>> ProcessArena::create(const ArenaOptions& options) try {
    HARENA_CHECK_OK(check(options));
    ArenaOptions wanted = options;
    HARENA_CHECK_OK(tune(wanted));
    if (wanted.tuning.huge_pages == HugePages::all)
        if (auto arena = begin(wanted, true)) return arena;  // else the machine has too few huge pages
    return begin(wanted, false);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep account of an arena of {} pages", options.pages.value());
}

Result<void> ProcessArena::tune(ArenaOptions& options) {
    ArenaTuning& tuning = options.tuning;
    const std::uint64_t granule = tuning.fault_granule.value();
    if (!std::has_single_bit(granule) || granule > k_huge_page_pages.value())
        return fail(EINVAL, "arena '{}': fault_granule {} is not a power of two from 1 to 512", options.name, granule);
    if (!tuning.exact_presence) {
        if (tuning.huge_pages == HugePages::all && (!is_aligned(options.user_vm_start.value(), k_huge_page_size) ||
                                                    !is_aligned(options.pages.value(), k_huge_page_pages.value())))
            return fail(EINVAL, "arena '{}': HugePages::all needs an address and a size that are multiples of 2 MiB",
                        options.name);
        return {};
    }
    tuning.recycle = PageCount{0};
    tuning.fault_granule = PageCount{1};
    tuning.huge_pages = HugePages::never;
    return {};
}

Result<std::shared_ptr<ProcessArena>> ProcessArena::begin(ArenaOptions options, bool hugetlb) {
    const auto no_fork = fault_handler::block_forks();  // first: a child must not inherit a lock of what follows, held
    HARENA_CHECK_OK(nofault::register_text());
    HARENA_CHECK_OK(fault_handler::install());
    const std::uint64_t start = options.user_vm_start.value();
    auto window = Window::reserve(start == 0 ? std::nullopt : std::optional{align_down(start, Window::k_bytes)},
                                  options.name, options.where);
    if (!window) return pass_on(window.error().in(fmt::format("arena '{}'", options.name)));
    const std::uint64_t offset = start == 0 ? chosen_offset(options.pages) : start % Window::k_bytes;
    options.user_vm_start = UserAddress{reinterpret_cast<std::uint64_t>(window->base()) + offset};
    // Without userfaultfd only what needs it is refused, by `Presence`.
    const bool needs_watching = options.tuning.exact_presence || options.segv_on_fault || options.strict_reserve;
    auto file = ArenaFile::create({.name = options.name,
                                   .pages = options.pages,
                                   .user_vm_start = options.user_vm_start,
                                   .segv_on_fault = options.segv_on_fault,
                                   .no_user_conv = options.no_user_conv,
                                   .strict_reserve = options.strict_reserve,
                                   .null_guard = options.null_guard,
                                   .watched = needs_watching || has_userfaultfd(),
                                   .hugetlb = hugetlb});
    if (!file) return pass_on(file.error().in(fmt::format("arena '{}'", options.name)));
    std::shared_ptr<ProcessArena> arena{new ProcessArena{options, std::move(*window)}};
    if (auto started = arena->start(std::move(*file), true); !started)
        return pass_on(started.error().in(fmt::format("arena '{}'", options.name)));
    return arena;
}

Result<void> ProcessArena::start(std::unique_ptr<ArenaFile> file, bool fresh) {
    const ArenaTuning& tuning = options().tuning;
    const ArenaGeometry geometry = file->geometry();
    HARENA_TRY(default_payer_, charges_.id_of(tuning.account));
    const bool whole_blocks = geometry.hugetlb || tuning.huge_pages == HugePages::all;
    set_data(reinterpret_cast<std::byte*>(geometry.user_vm_start.value()));
    HARENA_TRY(presence_, Presence::create(data(), std::move(file), charges_,
                                           {.fault_granule = whole_blocks ? k_huge_page_pages : tuning.fault_granule,
                                            .huge_blocks = tuning.huge_pages != HugePages::never,
                                            .payer = default_payer_}));
    if (!fresh) {
        // What those left unfinished that had this slot before: their generation is an old one, but it would come again
        // some day.
        presence_->recover_all();
    }
    allocator_ = std::make_unique<PageAllocator>(*presence_, charges_,
                                                 PageAllocator::Options{.recycle = tuning.recycle,
                                                                        .deterministic = tuning.deterministic,
                                                                        .huge_refills =
                                                                            tuning.huge_pages == HugePages::automatic,
                                                                        .whole_blocks = whole_blocks,
                                                                        .fresh = fresh});
    if (fresh && presence_->guard()) {
        PageIndex blocker;
        const PageRange guard = PageRange::of(*presence_->guard(), PageCount{1});
        if (presence_->claim(guard, blocker)) presence_->finish(guard, PageState::reserved);
    }
    HARENA_TRY(region_, fault_handler::add({.begin = geometry.user_vm_start.value(),
                                            .bytes = harena::bytes_of(geometry.pages),
                                            .presence = presence_.get()}));
    window_.count_pages_with(presence_.get());
    return {};
}

ProcessArena::~ProcessArena() {
    if (!region_) return;  // `start` failed, and its caller holds the lock
    end_heap();
    if (!published_.empty() && !fork_guard_.owner_dead()) (void)os::unlink(published_);
    // A child of a fork between here and the end would keep the descriptors: nobody closes them for it any more.
    const auto no_fork = fault_handler::block_forks();
    fault_handler::remove(*region_);
    window_.count_pages_with(nullptr);
    allocator_.reset();
    if (!fork_guard_.owner_dead()) charges_.release_all();
    presence_.reset();
    const Window gone = std::move(window_);
}

}  // namespace harena
