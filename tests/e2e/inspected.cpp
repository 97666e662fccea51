// SPDX-License-Identifier: Apache-2.0
//
// A process for `harena inspect` to look at: arenas with pages in many states, a space with areas of all kinds, a pool.
// Prints "ready" and waits until its standard input ends.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "harena/arena/process_arena.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/page/unmapped_cache.hpp"
#include "harena/vm/vm_space.hpp"

namespace {

using namespace harena;

std::byte* page_at(const ProcessArena& arena, std::uint64_t page) { return arena.data() + page * k_page_size; }

/// 4 GiB, of which there are runs of all sizes; one 2 MiB piece is on one page if the machine has one.
std::shared_ptr<ProcessArena> make_large() {
    auto arena = ProcessArena::create({.name = "index", .pages = PageCount{1U << 20}}).value();
    const auto alloc = [&](std::uint64_t page, std::uint64_t count) {
        (void)arena->alloc_pages(PageCount{count}, {.address = page_at(*arena, page)}).value();
    };
    alloc(0, 3 * 512);
    (void)os::madvise(page_at(*arena, 512), 2 * k_huge_page_size, os::k_madv_collapse);
    alloc(5000, 300);
    for (std::uint64_t page = 20'000; page < 60'000; page += 199) alloc(page, 1 + page % 150);
    (void)arena->reserve_pages(page_at(*arena, 100'000), PageCount{8192}).value();
    alloc(300'000, 2048);
    (void)arena->reserve_pages(page_at(*arena, 302'048), PageCount{256}).value();
    alloc(1'048'000, 576);
    return arena;
}

std::shared_ptr<ProcessArena> make_small() {
    auto arena =
        ProcessArena::create({.name = "counts", .pages = PageCount{200}, .tuning = {.exact_presence = true}}).value();
    (void)arena->alloc_pages(PageCount{40}).value();
    (void)arena->free_pages(page_at(*arena, 10), PageCount{5}).value();
    (void)arena->reserve_pages(page_at(*arena, 64), PageCount{16}).value();
    for (std::uint64_t page = 100; page < 200; page += 7) *page_at(*arena, page) = std::byte{1};
    return arena;
}

std::vector<Page*> take(PagePool& pool, std::size_t count) {
    std::vector<Page*> pages(count);
    pool.alloc_bulk(pages).value();
    return pages;
}

}  // namespace

int main() {
    const auto large = make_large();
    const auto small = make_small();

    const auto pool = PagePool::create({.capacity = PageCount{32 * 512}}).value();
    const auto space = VmSpace::create({.bytes = 4 * k_gib, .pool = pool.get()}).value();
    (void)space->vmalloc(300 * k_kib, {.name = "buffer"}).value();
    void* const sealed = space->vmalloc(64 * k_kib, {.unmapped = true, .name = "table"}).value();
    const auto pages = take(*pool, 12);
    (void)space->vmap(pages, VmProtection::read, {.name = "view"}).value();
    VmArea* const sparse =
        space->get_vm_area(16 * k_mib, VmKind::sparse, {.user = true, .name = "<sparse> & \"co\""}).value();
    for (std::uint64_t at = 0; at < 3; ++at)
        space->map_pages(sparse, sparse->begin() + at * k_mib, sparse->begin() + at * k_mib + 12 * k_page_size, pages)
            .value();
    void* const freed = space->vmalloc(2 * k_page_size).value();
    const auto device = os::memfd_create("device").value();
    os::ftruncate(device.get(), 64 * k_kib).value();
    (void)space->ioremap(device.get(), 4 * k_kib, 8 * k_kib, VmProtection::read_write, {.name = "device"}).value();
    (void)space->vm_map_ram(std::span{pages}.first(3)).value();
    (void)space->get_vm_area(k_mib, VmKind::map, {.exec = true, .name = "text"}).value();
    (void)space->vfree(freed);
    (void)sealed;

    (void)std::puts("ready");
    (void)std::fflush(stdout);
    std::array<char, 64> ignored;
    while (::read(STDIN_FILENO, ignored.data(), ignored.size()) > 0) {
    }
    std::_Exit(large->pages() > small->pages() ? 0 : 1);  // what is mapped need not be given back
}
