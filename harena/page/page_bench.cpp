// SPDX-License-Identifier: Apache-2.0
// The page layer beside mimalloc, mmap, and the obvious way to take pages out of a mapping: one by one, by mprotect.
#include <mimalloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "harena/base/compare_bench.hpp"
#include "harena/base/os/file.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/page/page_pool.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

using bench::must;
using bench::Pair;
using bench::seconds;

std::unique_ptr<PagePool> make_pool(std::uint64_t bytes) {
    return must(PagePool::create({.capacity = pages_for(bytes)}));
}

constexpr AllocFlags k_no_zero{.no_zero = true};

/// Nanoseconds of an allocation and a free of one page.
double pair_ns(PagePool& pool, Order order, int pairs) {
    return 1e9 / pairs * seconds([&] {
               for (int i = 0; i < pairs; ++i) {
                   Page* const page = *pool.alloc_pages(order, k_no_zero);
                   bench::keep(page);
                   (void)pool.free_pages(page, order);
               }
           });
}

/// Pairs a second of `threads` threads together.
double throughput(PagePool& pool, int threads) {
    constexpr int k_pairs = 2'000'000;
    std::vector<std::thread> running;
    const double took = seconds([&] {
        for (int i = 0; i < threads; ++i) running.emplace_back([&] { (void)pair_ns(pool, Order{}, k_pairs); });
        for (std::thread& thread : running) thread.join();
    });
    return threads * k_pairs / took;
}

void allocation(bench::Report& report) {
    const auto pool = make_pool(k_gib);
    constexpr int k_pairs = 500'000;
    report.add("page.alloc_free_order0",
               bench::alternate(
                   15, [&] { return pair_ns(*pool, Order{}, k_pairs); },
                   [&] {
                       return 1e9 / k_pairs * seconds([&] {
                                  for (int i = 0; i < k_pairs; ++i) {
                                      void* const page = mi_malloc_aligned(k_page_size, k_page_size);
                                      bench::keep(page);
                                      mi_free(page);
                                  }
                              });
                   }),
               "mimalloc", "ns");
    // Many pages at once: caches are filled and drained.
    constexpr std::size_t k_live = 10'000;
    std::vector<Page*> pages(k_live);
    std::vector<void*> blocks(k_live);
    report.add("page.alloc_10k_free_10k",
               bench::alternate(
                   15,
                   [&] {
                       return 1e9 / k_live * seconds([&] {
                                  for (Page*& page : pages) page = *pool->alloc_pages(Order{}, k_no_zero);
                                  for (Page* const page : pages) (void)pool->free_pages(page, Order{});
                              });
                   },
                   [&] {
                       return 1e9 / k_live * seconds([&] {
                                  for (void*& block : blocks) block = mi_malloc_aligned(k_page_size, k_page_size);
                                  for (void* const block : blocks) mi_free(block);
                              });
                   }),
               "mimalloc", "ns");
    report.add("page.alloc_free_order0_2threads",
               bench::alternate(
                   7, [&] { return throughput(*pool, 2) / 1e6; }, [&] { return throughput(*pool, 1) / 1e6; }),
               "one thread", "M/s");
    report.add("page.alloc_free_order9",
               bench::alternate(
                   15, [&] { return pair_ns(*pool, k_pageblock_order, 50'000); },
                   [&] {
                       constexpr int k_maps = 5'000;
                       return 1e9 / k_maps * seconds([&] {
                                  for (int i = 0; i < k_maps; ++i) {
                                      void* const at = ::mmap(nullptr, k_huge_page_size, PROT_READ | PROT_WRITE,
                                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                                      bench::keep(at);
                                      ::munmap(at, k_huge_page_size);
                                  }
                              });
                   }),
               "mmap+munmap", "ns");
}

std::vector<std::uint32_t> shuffled(std::uint32_t count, unsigned seed) {
    std::vector<std::uint32_t> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0U);
    std::ranges::shuffle(numbers, std::mt19937{seed});
    return numbers;
}

/// The obvious way: a file mapped whole, on 2 MiB pages as ours, single pages of which get no access.
class OneByOne {
public:
    explicit OneByOne(std::uint64_t bytes) : map_{must(DirectMap::create({.capacity = pages_for(bytes)}))} {
        for (std::uint64_t at = 0; at < bytes; at += k_huge_page_size)
            must(map_->grow(Pfn{static_cast<std::uint32_t>(at >> k_page_shift)}));
    }
    [[nodiscard]] bool out(std::uint32_t pfn) const {
        return ::mprotect(map_->address(Pfn{pfn}), k_page_size, PROT_NONE) == 0;
    }
    [[nodiscard]] bool back(std::uint32_t pfn) const {
        return ::mprotect(map_->address(Pfn{pfn}), k_page_size, PROT_READ | PROT_WRITE) == 0;
    }
    [[nodiscard]] DirectMap& map() const { return *map_; }

private:
    std::unique_ptr<DirectMap> map_;
};

std::uint64_t mappings() {
    const auto maps = os::read_file("/proc/self/maps");
    return maps ? static_cast<std::uint64_t>(std::ranges::count(*maps, std::byte{'\n'})) : 0;
}

void unmapped_pages(bench::Report& report) {
    constexpr std::uint32_t k_pages = 30'000;
    const auto pool = make_pool(256 * k_mib);
    UnmappedCache& cache = pool->unmapped();
    const OneByOne peer{256 * k_mib};
    std::vector<Page*> pages(k_pages);
    const auto order = shuffled(k_pages, 1);
    report.add("unmapped.alloc_free",
               bench::alternate(
                   5,
                   [&] {
                       return 1e6 / k_pages * seconds([&] {
                                  for (Page*& page : pages) page = must(cache.unmapped_pages_alloc(Order{}));
                                  for (const std::uint32_t i : order) must(cache.unmapped_pages_free(pages[i]));
                              });
                   },
                   [&] {
                       return 1e6 / k_pages * seconds([&] {
                                  for (const std::uint32_t i : order)
                                      if (!peer.out(i)) std::exit(1);
                                  for (const std::uint32_t i : order)
                                      if (!peer.back(i)) std::exit(1);
                              });
                   }),
               "mprotect, one by one", "us");
    must(cache.shrink(pool->capacity()));

    constexpr std::uint32_t k_live = 10'000;
    const std::uint64_t before = mappings();
    for (std::uint32_t i = 0; i < k_live; ++i) pages[i] = must(cache.unmapped_pages_alloc(Order{}));
    const std::uint64_t ours = mappings() - before;
    for (std::uint32_t i = 0; i < k_live; ++i) must(cache.unmapped_pages_free(pages[i]));
    const std::uint64_t before_peer = mappings();
    std::uint32_t out = 0;
    std::uint64_t theirs = 0;
    const auto all = shuffled(65'536, 2);
    while (out < all.size() && peer.out(all[out]))
        if (++out == k_live) theirs = mappings() - before_peer;
    for (std::uint32_t i = 0; i < out; ++i) (void)peer.back(all[i]);
    report.add("unmapped.vmas", {static_cast<double>(ours), static_cast<double>(theirs)}, "mprotect, one by one",
               "vmas", out == all.size() ? "" : fmt::format("one by one fails at {} pages", out));
}

std::byte byte_at(const std::byte* map, std::uint32_t page, std::uint64_t at) {
    return *static_cast<const volatile std::byte*>(map + page * k_page_size + at);
}

/// Touches all these pages, so that the page tables are complete.
void touch(const std::byte* map, const std::vector<std::uint32_t>& pages) {
    for (const std::uint32_t page : pages) (void)byte_at(map, page, 0);
}

double random_reads_ns(const std::byte* map, const std::vector<std::uint32_t>& readable) {
    constexpr int k_reads = 4'000'000;
    std::uint64_t state = 1;
    std::uint64_t sum = 0;
    const double took = seconds([&] {
        for (int i = 0; i < k_reads; ++i) {
            state = state * 6364136223846793005 + 1442695040888963407;
            const std::uint32_t page = readable[(state >> 33) % readable.size()];
            const auto at = (state >> 20 & 63) * 64;
            // The next address depends on what was read: no two reads at once.
            state += std::to_integer<std::uint64_t>(byte_at(map, page, at));
            sum += state;
        }
    });
    bench::keep(sum);
    return 1e9 / k_reads * took;
}

void direct_map(bench::Report& report) {
    constexpr std::uint64_t k_bytes = k_gib;
    constexpr auto k_pages = static_cast<std::uint32_t>(k_bytes >> k_page_shift);
    constexpr std::uint32_t k_unmaps = 10'000;
    const auto pool = make_pool(k_bytes);
    {  // all of it in the pool, and in use as a program would leave it: nothing free but what it frees now
        std::vector<Page*> all(k_pages / k_pageblock_pages);
        for (Page*& page : all) page = must(pool->alloc_pages(k_pageblock_order, k_no_zero));
        for (Page* const page : all) must(pool->free_pages(page, k_pageblock_order));
    }
    const OneByOne peer{k_bytes};
    std::mt19937 random{3};
    // Two of three steps take a page out, one returns one; what is out at the end stays so until all is measured.
    std::vector<Page*> live;
    for (std::uint32_t done = 0; done < k_unmaps;) {
        if (live.empty() || random() % 3 != 0) {
            live.push_back(must(pool->unmapped().unmapped_pages_alloc(Order{})));
            ++done;
        } else {
            std::swap(live[random() % live.size()], live.back());
            must(pool->unmapped().unmapped_pages_free(live.back()));
            live.pop_back();
        }
    }
    std::vector<std::uint32_t> readable;
    for (std::uint32_t i = 0; i < k_pages; ++i)
        if (pool->unmapped_in_pageblock(Pfn{i}) == 0) readable.push_back(i);
    std::vector<std::uint32_t> peer_live;
    std::vector<bool> peer_out(k_pages);
    const auto order = shuffled(k_pages, 4);
    for (std::uint32_t done = 0; done < k_unmaps;) {
        if (peer_live.empty() || random() % 3 != 0) {
            if (!peer.out(order[done])) std::exit(1);
            peer_out[order[done]] = true;
            peer_live.push_back(order[done++]);
        } else {
            std::swap(peer_live[random() % peer_live.size()], peer_live.back());
            if (!peer.back(peer_live.back())) std::exit(1);
            peer_out[peer_live.back()] = false;
            peer_live.pop_back();
        }
    }
    std::vector<std::uint32_t> peer_readable;
    for (std::uint32_t i = 0; i < k_pages; ++i)
        if (!peer_out[i]) peer_readable.push_back(i);
    const std::byte* const ours = pool->page_address(pool->page(Pfn{}));
    touch(ours, readable);
    touch(peer.map().base(), peer_readable);
    const auto share = [](const DirectMapStatistics& map) {
        return static_cast<double>(map.bytes_2m) / static_cast<double>(k_bytes);
    };
    report.add("unmapped.direct_map_2m",
               {share(must(pool->direct_map_statistics())), share(must(peer.map().statistics()))},
               "mprotect, one by one", "share");
    report.add("page.random_read_after",
               bench::alternate(
                   5, [&] { return random_reads_ns(ours, readable); },
                   [&] { return random_reads_ns(peer.map().base(), peer_readable); }),
               "after mprotect, one by one", "ns");
    for (Page* const page : live) must(pool->unmapped().unmapped_pages_free(page));
}

void shrink(bench::Report& report) {
    const auto pool = make_pool(k_gib);
    UnmappedCache& cache = pool->unmapped();
    const OneByOne peer{4 * k_huge_page_size};
    constexpr double k_blocks_asked_for = 256;  // 512 MiB
    std::uint64_t whole = 0;
    const auto order = shuffled(4 * k_pageblock_pages, 5);
    const Pair times = bench::alternate(
        3,
        [&] {
            std::vector<Page*> pages(k_gib / k_page_size);
            for (Page*& page : pages) page = must(cache.unmapped_pages_alloc(Order{}));
            for (Page* const page : pages) must(cache.unmapped_pages_free(page));
            const PerOrder before = cache.statistics().released;
            PageCount released{};
            const double took = seconds([&] { released = must(cache.shrink(pages_for(512 * k_mib))); });
            const PerOrder after = cache.statistics().released;
            whole = 0;
            for (const std::size_t k : {9U, 10U}) whole += (after[k] - before[k]) << k;
            if (released != pages_for(512 * k_mib)) std::exit(1);
            must(cache.shrink(pool->capacity()));
            return 1e6 * took / k_blocks_asked_for;
        },
        [&] {
            for (const std::uint32_t i : order) (void)peer.out(i);
            return 1e6 / 4 * seconds([&] {
                       for (const std::uint32_t i : order) (void)peer.back(i);
                   });
        });
    report.add("unmapped.shrink", times, "mprotect, one by one", "us",
               fmt::format("a pageblock; {} of {} pages in whole pageblocks", whole, 512 * k_mib / k_page_size));
}

}  // namespace
}  // namespace harena

int main(int argc, char** argv) {
    harena::bench::Report report;
    harena::allocation(report);
    harena::unmapped_pages(report);
    harena::direct_map(report);
    harena::shrink(report);
    return report.write(argc, argv);
}
