// SPDX-License-Identifier: Apache-2.0
#include "harena/page/direct_map.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/smaps.hpp"

namespace harena {

Result<std::unique_ptr<DirectMap>> DirectMap::create(const DirectMapOptions& options) {
    const std::uint64_t bytes = harena::bytes_of(options.capacity);
    if (bytes == 0 || !is_aligned(bytes, k_huge_page_size) || options.capacity.value() > k_max_pages)
        return fail(EINVAL, "a pool of {} pages: it takes a multiple of {}, up to {}", options.capacity.value(),
                    k_pageblock_pages, k_max_pages);
    HARENA_CHECK_OK(check_file_size(bytes, "the pool's file"));
    auto file = options.hugetlb ? os::memfd_create_hugetlb("harena:pages") : os::memfd_create("harena:pages");
    if (!file && options.hugetlb && file.error().code != EMFILE && file.error().code != ENFILE)
        return fail(ENOTSUP, "this system has no files on reserved 2 MiB pages: {}", os::describe(file.error()));
    if (!file) return os::fail_with(file.error(), "cannot create the pool's memfd");
    if (const auto sized = os::ftruncate(file->get(), bytes); !sized)
        return os::fail_with(sized.error(), fmt::format("cannot size the pool's memfd to {} bytes", bytes));
    if (const auto sealed = os::add_seals(file->get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); !sealed)
        return os::fail_with(sealed.error(), "cannot seal the size of the pool's memfd");

    // More than needed, so that a multiple of 2 MiB is inside; what is over is given back.
    const std::uint64_t reserved_bytes = bytes + k_huge_page_size;
    const auto reserved = os::mmap(nullptr, reserved_bytes, PROT_NONE, k_reservation, -1, 0);
    if (!reserved)
        return map_error(reserved.error(), fmt::format("cannot reserve {} bytes of addresses for a pool", bytes));
    auto* const begin = static_cast<std::byte*>(*reserved);
    auto* const base = reinterpret_cast<std::byte*>(align_up(reinterpret_cast<std::uint64_t>(begin), k_huge_page_size));
    std::unique_ptr<DirectMap> map{new DirectMap{std::move(*file), base, bytes, options}};
    if (base != begin) (void)os::munmap(begin, static_cast<std::size_t>(base - begin));
    (void)os::munmap(base + bytes, static_cast<std::size_t>(begin + reserved_bytes - (base + bytes)));
    HARENA_TRY(NotInherited not_inherited, NotInherited::of(base, bytes));
    map->not_inherited_.emplace(std::move(not_inherited));
    return map;
}

DirectMap::DirectMap(os::FileDescriptor fd, std::byte* base, std::uint64_t bytes,
                     const DirectMapOptions& options) noexcept
    : fd_{std::move(fd)},
      base_{base},
      bytes_{bytes},
      hugetlb_{options.hugetlb},
      collapse_{options.collapse},
      max_vmas_{options.max_vmas},
      mapped_{bytes / k_page_size} {}

DirectMap::~DirectMap() {
    not_inherited_.reset();
    (void)os::munmap(base_, bytes_);
}

os::SysResult<void> DirectMap::map_file(Pfn first, std::uint64_t bytes) noexcept {
    const auto mapped = os::mmap(address(first), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
                                 fd_.get(), byte_offset(first));
    if (!mapped) return std::unexpected{mapped.error()};
    // Children have a reservation over all of it in any case (`NotInherited`): this spares them the copying, and keeps
    // the mapping out of a raw clone.
    (void)os::madvise(address(first), bytes, MADV_DONTFORK);
    return {};
}

os::SysResult<void> DirectMap::map_nothing(Pfn first, std::uint64_t bytes) noexcept {
    // Not mprotect: /proc/self/mem reads through it. Not munmap: another thread could take the addresses.
    const auto mapped = os::mmap(address(first), bytes, PROT_NONE, k_reservation | MAP_FIXED, -1, 0);
    if (!mapped) return std::unexpected{mapped.error()};
    (void)os::madvise(address(first), bytes, MADV_DONTFORK);  // one mapping with its neighbours
    return {};
}

Result<void> DirectMap::grow(Pfn pageblock, std::optional<unsigned> node) {
    if (const auto mapped = map_file(pageblock, k_huge_page_size); !mapped)
        return map_error(mapped.error(), "cannot map 2 MiB more for the pool");
    (void)set_mapped(pageblock, k_pageblock_pages, true, false);
    // A wish: where the node has no memory, or does not exist, any other serves.
    if (node) (void)os::prefer_node(address(pageblock), k_huge_page_size, static_cast<int>(*node));
    if (hugetlb_) {
        const auto got = os::allocate_range(fd_.get(), byte_offset(pageblock), k_huge_page_size);
        if (got) return {};
        if (map_nothing(pageblock, k_huge_page_size)) (void)set_mapped(pageblock, k_pageblock_pages, false, false);
        return fail(ENOMEM, "no reserved 2 MiB page is free for the pool to grow (vm.nr_hugepages): {}",
                    os::describe(got.error()));
    }
    if (!collapse_) return {};
    // A block with one page in it becomes one 2 MiB page of zeros twenty times faster than a full one, and an empty one
    // does not become it.
    const auto touched = os::madvise(address(pageblock), k_page_size, os::k_madv_populate_write);
    if (!touched && touched.error().code != EINVAL) {  // EINVAL: before Linux 5.14
        if (map_nothing(pageblock, k_huge_page_size)) (void)set_mapped(pageblock, k_pageblock_pages, false, false);
        return fail(ENOMEM, "no memory for the pool to grow: {}", os::describe(touched.error()));
    }
    const bool collapsed = touched && os::madvise(address(pageblock), k_huge_page_size, os::k_madv_collapse);
    (collapsed ? collapsed_ : not_collapsed_).fetch_add(1, std::memory_order_relaxed);
    return {};
}

Result<void> DirectMap::drop(Pfn first, Order order) {
    if (const auto punched = os::punch_hole(fd_.get(), byte_offset(first), bytes_of(order)); !punched)
        return os::fail_with(punched.error(),
                             fmt::format("cannot give the memory of {} pages back to the system", pages_of(order)));
    return {};
}

Result<void> DirectMap::give_back(Pfn pageblock) {
    // The memory first: if the mapping cannot go then, the pageblock is still mapped, and zero.
    HARENA_CHECK_OK(drop(pageblock, k_pageblock_order));
    if (const auto gone = map_nothing(pageblock, k_huge_page_size); !gone)
        return map_error(gone.error(), "cannot unmap 2 MiB that the pool gives back");
    return set_mapped(pageblock, k_pageblock_pages, false, false);
}

std::int64_t DirectMap::edges_round(Pfn first, std::uint64_t pages) const noexcept {
    const auto edge_before = [this](std::size_t page) {
        return page != 0 && page != mapped_.size() && mapped_.test(page) != mapped_.test(page - 1) ? 1 : 0;
    };
    return edge_before(first.value()) + edge_before(first.value() + pages);
}

Result<void> DirectMap::set_mapped(Pfn first, std::uint64_t pages, bool mapped, bool within_budget) {
    const std::lock_guard lock{edges_mutex_};
    const auto assign = [&](bool to) {
        to ? mapped_.set_range(first.value(), first.value() + pages)
           : mapped_.clear_range(first.value(), first.value() + pages);
    };
    // All of the block is mapped, or none of it: only what is round it changes.
    const std::int64_t before = edges_round(first, pages);
    assign(mapped);
    const std::int64_t more = edges_round(first, pages) - before;
    if (within_budget && more > 0 && static_cast<std::uint64_t>(edges_ + more) + 1 > max_vmas_) {
        assign(!mapped);
        return fail(
            ENOMEM,
            "{} pages cannot leave the direct map: it would be more than {} mappings, its part of those that the "
            "process may have (max_vmas)",
            pages, max_vmas_);
    }
    edges_ += more;
    return {};
}

Result<void> DirectMap::unmap(Pfn first, Order order) {
    HARENA_CHECK_OK(set_mapped(first, pages_of(order), false, true));
    if (const auto gone = map_nothing(first, bytes_of(order)); !gone) {
        (void)set_mapped(first, pages_of(order), true, false);
        return map_error(gone.error(), fmt::format("cannot take {} pages out of the direct map", pages_of(order)));
    }
    return {};
}

Result<void> DirectMap::restore(Pfn first, Order order) {
    if (const auto back = map_file(first, bytes_of(order)); !back)
        return map_error(back.error(), fmt::format("cannot put {} pages back into the direct map", pages_of(order)));
    return set_mapped(first, pages_of(order), true, false);
}

Result<void> DirectMap::zero(Pfn first, std::uint32_t pages) {
    std::uint64_t offset = byte_offset(first);
    const std::uint64_t end = offset + std::uint64_t{pages} * k_page_size;
    HARENA_CHECK_OK(check_file_size(end, "a write to the pool's file"));  // it may have been lowered
    while (offset < end) {
        const auto written = os::write_zeros(fd_.get(), end - offset, offset);
        if (!written && written.error().code == EINTR) continue;
        if (!written) return os::fail_with(written.error(), fmt::format("cannot write zeros to {} pages", pages));
        offset += *written;
    }
    return {};
}

Result<DirectMapStatistics> DirectMap::statistics() const {
    HARENA_TRY(const MappedBytes mapped, mapped_bytes(base_, bytes_));
    return DirectMapStatistics{.vmas = mapped.vmas,
                               .bytes_2m = mapped.bytes_2m,
                               .bytes_4k = mapped.bytes_4k,
                               .splits = splits_.load(std::memory_order_relaxed),
                               .merges = merges_.load(std::memory_order_relaxed),
                               .collapsed = collapsed_.load(std::memory_order_relaxed),
                               .not_collapsed = not_collapsed_.load(std::memory_order_relaxed)};
}

}  // namespace harena
