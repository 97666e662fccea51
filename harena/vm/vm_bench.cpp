// SPDX-License-Identifier: Apache-2.0
// The vm layer beside mmap and munmap.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "harena/base/compare_bench.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {
namespace {

using bench::must;
using bench::seconds;

void touch(void* at, std::uint64_t pages) {
    for (std::uint64_t i = 0; i < pages; ++i) *(static_cast<volatile std::byte*>(at) + i * k_page_size) = std::byte{1};
}

struct Fixture {
    std::unique_ptr<PagePool> pool = must(PagePool::create({.capacity = pages_for(k_gib)}));
    std::unique_ptr<VmSpace> space = must(VmSpace::create({.bytes = 64 * k_gib, .pool = pool.get()}));
};

constexpr int k_areas = 100'000;

void areas(bench::Report& report) {
    const Fixture fixture;
    VmSpace& space = *fixture.space;
    std::vector<VmArea*> live;
    live.reserve(2 * k_areas);
    std::mt19937 random{1};
    for (int i = 0; i < 2 * k_areas; ++i)
        live.push_back(must(space.get_vm_area((1 + random() % 16) * k_page_size, VmKind::map)));
    // Every other one goes: 100,000 live areas, and a hole after each.
    for (std::size_t i = 0; i < live.size() / 2; ++i) {
        must(space.free_vm_area(live[2 * i]));
        live[i] = live[2 * i + 1];
    }
    live.resize(k_areas);
    constexpr int k_pairs = 20'000;
    report.add("vm.get_free_area",
               bench::alternate(
                   9,
                   [&] {
                       return 1e9 / k_pairs * seconds([&] {
                                  for (int i = 0; i < k_pairs; ++i)
                                      must(space.free_vm_area(must(space.get_vm_area(4 * k_page_size, VmKind::map))));
                              });
                   },
                   [&] {
                       return 1e9 / k_pairs * seconds([&] {
                                  for (int i = 0; i < k_pairs; ++i) {
                                      void* const at = ::mmap(nullptr, 4 * k_page_size, PROT_NONE,
                                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                                      bench::keep(at);
                                      ::munmap(at, 4 * k_page_size);
                                  }
                              });
                   }),
               "mmap+munmap PROT_NONE", "ns", "100,000 live areas of ours");

    std::vector<const std::byte*> addresses;
    addresses.reserve(live.size());
    for (const VmArea* const area : live) addresses.push_back(area->begin() + 100);
    const auto find = [&](int threads) {
        constexpr int k_finds = 2'000'000;
        std::vector<std::thread> running;
        const double took = seconds([&] {
            for (int t = 0; t < threads; ++t)
                running.emplace_back([&, t] {
                    std::uint64_t state = static_cast<std::uint64_t>(t) + 1;
                    std::uint64_t found = 0;
                    for (int i = 0; i < k_finds; ++i) {
                        state = state * 6364136223846793005 + 1442695040888963407;
                        const std::byte* const at = addresses[(state >> 33) % addresses.size()];
                        found += space.find_vm_area(at) ? 1U : 0U;
                    }
                    if (found != k_finds) std::exit(1);
                });
            for (std::thread& thread : running) thread.join();
        });
        return threads * k_finds / took / 1e6;
    };
    report.add("vm.find_area",
               bench::alternate(
                   5, [&] { return find(2); }, [&] { return find(1); }),
               "one thread", "M/s", "100,000 areas, two threads together");
    for (VmArea* const area : live) must(space.free_vm_area(area));
}

void allocation(bench::Report& report) {
    const Fixture fixture;
    constexpr std::uint64_t k_bytes = 64 * k_kib;
    constexpr int k_rounds = 2'000;
    report.add("vm.vmalloc_64k",
               bench::alternate(
                   9,
                   [&] {
                       return 1e6 / k_rounds * seconds([&] {
                                  for (int i = 0; i < k_rounds; ++i) {
                                      void* const at = must(fixture.space->vmalloc(k_bytes));
                                      touch(at, 16);
                                      must(fixture.space->vfree(at));
                                  }
                              });
                   },
                   [&] {
                       return 1e6 / k_rounds * seconds([&] {
                                  for (int i = 0; i < k_rounds; ++i) {
                                      void* const at = ::mmap(nullptr, k_bytes, PROT_READ | PROT_WRITE,
                                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                                      touch(at, 16);
                                      ::munmap(at, k_bytes);
                                  }
                              });
                   }),
               "anonymous mmap+munmap", "us");

    constexpr std::uint32_t k_groups = 1'000;
    std::vector<Page*> pages(4 * k_groups);
    for (std::uint32_t i = 0; i < k_groups; ++i) {
        Page* const block = must(fixture.pool->alloc_pages(Order{2}));
        for (std::uint32_t k = 0; k < 4; ++k) pages[4 * i + k] = fixture.pool->page(fixture.pool->pfn(block) + k);
    }
    const int file = ::memfd_create("peer", MFD_CLOEXEC);
    if (::ftruncate(file, k_groups * 4 * k_page_size) != 0) std::exit(1);
    void* const whole = ::mmap(nullptr, k_groups * 4 * k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    touch(whole, 4 * k_groups);
    const auto ram = [&](bool touched) {
        return bench::alternate(
            9,
            [&, touched] {
                return 1e6 / k_groups * seconds([&] {
                           for (std::uint32_t i = 0; i < k_groups; ++i) {
                               const std::span four = std::span{pages}.subspan(4 * i, 4);
                               void* const at = must(fixture.space->vm_map_ram(four));
                               if (touched) touch(at, 4);
                               must(fixture.space->vm_unmap_ram(at, 4));
                           }
                       });
            },
            [&, touched] {
                return 1e6 / k_groups * seconds([&] {
                           for (std::uint32_t i = 0; i < k_groups; ++i) {
                               void* const at = ::mmap(nullptr, 4 * k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                                                       file, static_cast<off_t>(4 * i * k_page_size));
                               if (touched) touch(at, 4);
                               ::munmap(at, 4 * k_page_size);
                           }
                       });
            });
    };
    report.add("vm.vm_map_ram_4", ram(true), "mmap+munmap of a memfd", "us", "each page touched");
    ::munmap(whole, k_groups * 4 * k_page_size);
    ::close(file);
    for (std::uint32_t i = 0; i < k_groups; ++i) must(fixture.pool->free_pages(pages[4 * i], Order{2}));
}

void sparse(bench::Report& report) {
    const Fixture fixture;
    constexpr std::uint64_t k_pages = 16 * k_pageblock_pages;
    VmArea* const area = must(fixture.space->get_vm_area(k_pages * k_page_size, VmKind::sparse));
    std::vector<Page*> pages;
    for (std::uint64_t i = 0; i < k_pages; i += k_pageblock_pages) {
        Page* const block = must(fixture.pool->alloc_pages(k_pageblock_order));
        for (std::uint32_t k = 0; k < k_pageblock_pages; ++k)
            pages.push_back(fixture.pool->page(fixture.pool->pfn(block) + k));
    }
    std::byte* const reserved = static_cast<std::byte*>(
        ::mmap(nullptr, k_pages * k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    const auto map_peer = [&](std::uint64_t i) {
        (void)::mmap(reserved + i * k_page_size, k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                     fixture.pool->fd(), static_cast<off_t>(byte_offset(fixture.pool->pfn(pages[i]))));
    };
    const auto unmap_peer = [&](std::uint64_t i) {
        (void)::mmap(reserved + i * k_page_size, k_page_size, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    };
    const auto peer = [&](std::uint64_t step) {
        return 1e6 * static_cast<double>(step) / k_pages * seconds([&] {
                   for (std::uint64_t i = 0; i < k_pages; i += step) map_peer(i);
                   for (std::uint64_t i = 0; i < k_pages; i += step) unmap_peer(i);
               });
    };
    const auto ours = [&](std::uint64_t run, std::uint64_t step) {
        return 1e6 * static_cast<double>(step) / static_cast<double>(run) / k_pages * seconds([&] {
                   const auto each = [&](const auto& work) {
                       for (std::uint64_t i = 0; i < k_pages; i += step)
                           work(area->begin() + i * k_page_size, area->begin() + (i + run) * k_page_size, i);
                   };
                   each([&](std::byte* start, std::byte* end, std::uint64_t i) {
                       must(fixture.space->map_pages(area, start, end, std::span{pages}.subspan(i, run)));
                   });
                   each([&](std::byte* start, std::byte* end, std::uint64_t) {
                       must(fixture.space->unmap_pages(area, start, end));
                   });
               });
    };
    report.add("vm.map_pages_run",
               bench::alternate(
                   7, [&] { return ours(512, 512); }, [&] { return peer(1); }),
               "mmap, page by page", "us", "a page, of runs of 512");
    report.add("vm.map_pages_scattered",
               bench::alternate(
                   7, [&] { return ours(1, 2); }, [&] { return peer(2); }),
               "mmap, page by page", "us", "a page, single ones");
    must(fixture.space->free_vm_area(area));
    must(fixture.space->purge());
    for (std::uint64_t i = 0; i < k_pages; i += k_pageblock_pages)
        must(fixture.pool->free_pages(pages[i], k_pageblock_order));
    ::munmap(reserved, k_pages * k_page_size);
}

}  // namespace
}  // namespace harena

int main(int argc, char** argv) {
    harena::bench::Report report;
    harena::areas(report);
    harena::allocation(report);
    harena::sparse(report);
    return report.write(argc, argv);
}
