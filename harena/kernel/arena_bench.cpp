// SPDX-License-Identifier: Apache-2.0
// Our arena beside Linux's, each row named as in docs/arena.md. `harena_arena_bench [--json FILE]`.
//
// Pages are allocated in fresh arenas, but on memory that is warm: touched and released just before, by both sides. In
// a virtual machine the first touch of memory that it has not used lately is its host's page fault, which costs many
// times the rest; that is the row arena.alloc_100k_cold.
//
// Linux flushes each page that it frees from the TLBs of all processors: that costs more the busier they are, 3.6 to
// 20 us on a virtual machine with two. Compare rows of a quiet machine.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <latch>
#include <numeric>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "harena/kernel/arena_sides_bench.hpp"

namespace harena::bench {
namespace {

constexpr PageCount k_pages{100'000};
constexpr const char* k_peer = "linux";

/// Memory of this process, on 4 KiB pages, touched.
class Touched {
public:
    explicit Touched(PageCount pages) : bytes_{bytes_of(pages)} {
        void* const at = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(at != MAP_FAILED, "there is memory to touch");
        memory_ = static_cast<std::byte*>(at);
        (void)::madvise(memory_, bytes_, MADV_NOHUGEPAGE);
        took_ = seconds([&] {
            for (std::uint64_t i = 0; i < bytes_; i += k_page_size) memory_[i] = std::byte{1};
        });
    }
    Touched(const Touched&) = delete;
    Touched& operator=(const Touched&) = delete;
    Touched(Touched&& other) noexcept
        : memory_{std::exchange(other.memory_, nullptr)}, bytes_{other.bytes_}, took_{other.took_} {}
    ~Touched() {
        if (memory_ != nullptr) ::munmap(memory_, bytes_);
    }
    [[nodiscard]] double took() const { return took_; }  // seconds

private:
    std::byte* memory_;
    std::uint64_t bytes_;
    double took_ = 0;
};

/// Touches and releases as many pages: what our arena gets next. Linux's arena gets its pages from another list of the
/// kernel's, that of memory that cannot be moved, where they are since the round before.
void warm_up(PageCount pages) { const Touched touched{pages}; }

/// Microseconds a page.
double us_each(double seconds, PageCount pages) { return 1e6 * seconds / static_cast<double>(pages.value()); }

// Fresh arenas: all pages allocated one by one by a program, touched by the host, freed in one call.

template <typename Side>
double alloc_all(const Side& side) {
    const double took = side.alloc_each(side.arena().pages().value());
    must(used(side.arena()) == side.arena().pages(), "all pages are allocated");
    return took;
}

template <typename Side>
double touch_all(const Side& side) {
    const double took = touch_each(side.arena());
    must(zeroed(side.arena()), "new pages are zero");
    return took;
}

template <typename Side>
double free_all(const Side& side) {
    const double took = side.free_all();
    must(used(side.arena()) == PageCount{}, "all pages are free");
    return took;
}

/// Of one round, microseconds a page: allocation, touch, both, free.
template <typename Side>
std::array<double, 4> fresh_round() {
    {
        // Another arena of the same side touches and releases the memory: blocks of 2 MiB come from another list of the
        // kernel's than single pages do.
        const Side before{{.pages = k_pages}};
        (void)alloc_all(before);
        (void)touch_all(before);
        (void)free_all(before);
    }
    const Side side{{.pages = k_pages}};
    const double alloc = us_each(alloc_all(side), k_pages);
    const double touch = us_each(touch_all(side), k_pages);
    const double free = us_each(free_all(side), k_pages);
    return {alloc, touch, alloc + touch, free};
}

void fresh(Report& report) {
    const auto [alloc, touch, both, free] = alternate_several(7, fresh_round<Ours>, fresh_round<Linux>);
    report.add("arena.alloc_100k", alloc, k_peer, "us", "a page");
    report.add("arena.host_first_touch", touch, k_peer, "us", "a page");
    report.add("arena.alloc_touch_100k", both, k_peer, "us", "a page");
    report.add("arena.free_100k", free, k_peer, "us", "a page, of pages that the host touched");
}

// Memory that the machine has not used lately.

/// For one side: holds memory until what is left is cold.
class ColdMemory {
public:
    static constexpr PageCount k_step{16'384};

    /// `take()` takes as many pages and holds them, and returns the seconds of that; `warm` is what it returns for
    /// pages that were released just before. Called `limit` times at most.
    ColdMemory(double warm, std::function<double()> take, std::int64_t limit) : warm_{warm}, take_{std::move(take)} {
        for (std::int64_t taken = 0; taken < limit && in_a_row_ < k_enough; ++taken)
            in_a_row_ = next_is_cold() ? in_a_row_ + 1 : 0;
    }
    [[nodiscard]] bool found() const { return in_a_row_ == k_enough; }
    [[nodiscard]] bool next_is_cold() {
        last_ = take_();
        return last_ > k_factor * warm_;
    }
    [[nodiscard]] double warm() const { return warm_; }
    [[nodiscard]] double last() const { return last_; }

private:
    static constexpr double k_factor = 3;  // how many times as much cold memory costs at least
    static constexpr int k_enough = 3;

    double warm_;
    double last_ = 0;
    std::function<double()> take_;
    int in_a_row_ = 0;
};

void cold(Report& report) {
    constexpr std::string_view k_name = "arena.alloc_100k_cold";
    constexpr int k_rounds = 3;
    constexpr PageCount k_step = ColdMemory::k_step;
    constexpr int k_peer_steps = 48;  // 3 GiB
    // At most three quarters of what is free are taken.
    constexpr std::int64_t k_peer_pages = (k_peer_steps + k_rounds) * std::int64_t{k_step.value()};
    constexpr std::int64_t k_rounds_pages = 2 * k_rounds * std::int64_t{k_pages.value()};
    const std::int64_t available = ::sysconf(_SC_AVPHYS_PAGES);
    const std::int64_t ours_steps = (available * 3 / 4 - k_peer_pages - k_rounds_pages) / std::int64_t{k_step.value()};
    // Nothing is released before the end: the next allocation would get it.
    (void)Touched{k_step};
    const double warm_touch = Touched{k_step}.took();
    std::vector<Touched> held;
    ColdMemory for_ours{warm_touch, [&] { return held.emplace_back(k_step).took(); }, ours_steps};
    if (!for_ours.found())
        return Report::skip(k_name, fmt::format("all of {} MiB is warm", held.size() * bytes_of(k_step) / k_mib));
    const Linux one_step{{.pages = k_step}};
    (void)alloc_all(one_step);
    (void)free_all(one_step);
    const double warm_alloc = alloc_all(one_step);
    const Linux holder{{.pages = PageCount{k_peer_pages}}};
    ColdMemory for_peer{warm_alloc, [&] { return holder.alloc_each(k_step.value()); }, k_peer_steps};
    if (!for_peer.found()) return Report::skip(k_name, "all of 3 GiB that Linux's arena got is warm");
    std::vector<Ours> ours;
    std::vector<Linux> peer;
    std::vector<double> ours_us;
    std::vector<double> peer_us;
    for (int round = 0; round < k_rounds; ++round) {
        // A round counts if memory is cold after it, too: other processes release theirs at any time.
        const double a = us_each(alloc_all(ours.emplace_back(Wanted{.pages = k_pages})), k_pages);
        if (for_ours.next_is_cold()) ours_us.push_back(a);
        const double b = us_each(alloc_all(peer.emplace_back(Wanted{.pages = k_pages})), k_pages);
        if (for_peer.next_is_cold()) peer_us.push_back(b);
    }
    if (ours_us.empty() || peer_us.empty())
        return Report::skip(k_name, "other processes released memory that the machine had used");
    report.add(k_name, {median(ours_us), median(peer_us)}, k_peer, "us",
               fmt::format("a page; the host's first touch alone is {:.2f} us, {:.2f} on warm memory",
                           us_each(for_ours.last(), k_step), us_each(for_ours.warm(), k_step)));
}

// Pages that were allocated before.

/// Microseconds a page. The arena is the same in each round: from the second on, its pages were used and freed before.
template <typename Side>
double retained_round(const Side& side) {
    const double took = us_each(alloc_all(side), k_pages);
    (void)touch_all(side);
    std::memset(side.arena().data(), 0xa5, side.arena().size());  // which `touch_all` must not find in the next round
    (void)free_all(side);
    return took;
}

void retained(Report& report) {
    const Ours ours{{.pages = k_pages, .recycle = k_pages}};
    const Linux peer{{.pages = k_pages}};
    report.add("arena.alloc_100k_retained",
               alternate(
                   5, [&] { return retained_round(ours); }, [&] { return retained_round(peer); }),
               k_peer, "us", "a page; Linux keeps none");
}

void pairs(Report& report) {
    constexpr PageCount k_pairs{10'000};
    const Ours ours{{.pages = k_pages}};
    const Linux peer{{.pages = k_pages}};
    report.add("arena.alloc_free_pair",
               alternate(
                   11, [&] { return us_each(ours.alloc_free_pairs(k_pairs.value()), k_pairs); },
                   [&] { return us_each(peer.alloc_free_pairs(k_pairs.value()), k_pairs); }),
               k_peer, "us");
    must(used(ours.arena()) == PageCount{} && used(peer.arena()) == PageCount{}, "all pages are free");
}

// Absent pages.

template <typename Side>
double host_fault_round(PageCount fault_granule) {
    constexpr PageCount k_touched{50 * k_huge_page_size / k_page_size};
    const Side side{{.pages = k_touched,
                     .recycle = PageCount{},
                     .fault_granule = fault_granule,
                     .never_huge = fault_granule == PageCount{1}}};
    warm_up(k_touched);
    const double took = us_each(touch_all(side), k_touched);
    must(used(side.arena()) == k_touched, "the host's touches made the pages used");
    return took;
}

void host_faults(Report& report) {
    const auto row = [&](std::string_view name, PageCount granule) {
        report.add(name,
                   alternate(
                       7, [&] { return host_fault_round<Ours>(granule); },
                       [&] { return host_fault_round<Linux>(granule); }),
                   k_peer, "us", "a page");
    };
    row("arena.host_fault_exact", PageCount{1});
    row("arena.host_fault_16", PageCount{16});
    row("arena.host_fault_512", PageCount{512});
}

void program_holes(Report& report) {
    constexpr PageCount k_holes{10'000};
    const Ours ours{{.pages = k_holes}};
    const Linux peer{{.pages = k_holes}};
    report.add("arena.program_hole_read",
               alternate(
                   11, [&] { return us_each(ours.read_each(), k_holes); },
                   [&] { return us_each(peer.read_each(), k_holes); }),
               k_peer, "us", "the read alone: no report of ours, and Linux's error stream is full");
    must(used(ours.arena()) == PageCount{} && used(peer.arena()) == PageCount{}, "programs' reads make no pages");
}

// Ours alone.

/// The bytes of the arena that are on 2 MiB entries of the page table, as /proc/self/smaps says.
std::uint64_t huge_bytes(const Arena& arena) {
    const std::uint64_t begin = arena.user_vm_start().value();
    std::ifstream smaps{"/proc/self/smaps"};
    std::uint64_t bytes = 0;
    bool inside = false;
    for (std::string line; std::getline(smaps, line);) {
        std::istringstream words{line};
        std::string key;
        words >> key;
        if (const std::size_t dash = key.find('-'); dash != std::string::npos && key.back() != ':') {
            const std::uint64_t at = std::stoull(key, nullptr, 16);
            inside = at >= begin && at < begin + arena.size();
        } else if (inside && (key == "ShmemPmdMapped:" || key == "Shared_Hugetlb:")) {
            std::uint64_t kib = 0;
            words >> kib;
            bytes += kib * k_kib;
        }
    }
    return bytes;
}

/// Nanoseconds of a read of 8 bytes anywhere in the arena, at an address that depends on the read before.
double random_read_ns(const Arena& arena) {
    constexpr int k_reads = 2'000'000;
    const std::uint64_t lines = arena.size() / 64;
    std::uint64_t state = 1;
    const double took = seconds([&] {
        for (int i = 0; i < k_reads; ++i) {
            state = state * 6364136223846793005 + 1442695040888963407;
            const std::byte* const at = arena.data() + (state >> 33) % lines * 64;
            state += *reinterpret_cast<const volatile std::uint64_t*>(at);
        }
    });
    keep(state);
    return 1e9 / k_reads * took;
}

void random_reads(Report& report) {
    constexpr std::string_view k_name = "arena.random_read_1g_huge";
    const Ours huge{{.pages = pages_for(k_gib)}};
    if (const auto promoted = huge.arena().promote(huge.arena().data(), huge.arena().pages()); !promoted)
        return Report::skip(k_name, promoted.error().message());
    const Ours small{{.pages = pages_for(k_gib), .never_huge = true}};
    must(small.arena().populate(small.arena().data(), small.arena().size()));
    for (const Ours* const side : {&huge, &small}) (void)touch_all(*side);  // completes the page tables
    must(huge_bytes(small.arena()) == 0, "the peer is on 4 KiB pages");
    const std::uint64_t huge_mib = huge_bytes(huge.arena()) / k_mib;
    if (huge_mib < 960) return Report::skip(k_name, fmt::format("only {} of 1024 MiB got 2 MiB entries", huge_mib));
    report.add(k_name,
               alternate(
                   5, [&] { return random_read_ns(huge.arena()); }, [&] { return random_read_ns(small.arena()); }),
               "on 4 KiB pages", "ns", fmt::format("{} of 1024 MiB on 2 MiB entries", huge_mib));
}

/// Pairs of an allocation and a free of one page in a microsecond, of `threads` threads together, in one arena.
double pairs_in_a_us(const Ours& ours, unsigned threads) {
    constexpr std::chrono::milliseconds k_time{100};
    constexpr std::uint64_t k_batch = 64;  // between two looks at the clock
    std::latch ready{static_cast<std::ptrdiff_t>(threads)};
    std::vector<double> rates(threads);
    std::vector<std::thread> running;
    running.reserve(threads);
    for (double& rate : rates)
        running.emplace_back([&] {
            ready.arrive_and_wait();
            std::uint64_t done = 0;
            double took = 0;
            while (took < std::chrono::duration<double>(k_time).count()) {
                took += ours.alloc_free_pairs(k_batch);
                done += k_batch;
            }
            rate = static_cast<double>(done) / took / 1e6;
        });
    for (std::thread& thread : running) thread.join();
    return std::accumulate(rates.begin(), rates.end(), 0.0);
}

void two_threads(Report& report) {
    const Ours ours{{.pages = k_pages}};
    report.add("arena.alloc_2threads",
               alternate(
                   7, [&] { return pairs_in_a_us(ours, 2); }, [&] { return pairs_in_a_us(ours, 1); }),
               "one thread", "M/s", "pairs of an allocation and a free, throughput");
    must(used(ours.arena()) == PageCount{}, "all pages are free");
}

}  // namespace
}  // namespace harena::bench

int main(int argc, char** argv) {
    namespace bench = harena::bench;
    bench::Report report;
    if (const auto available = bench::Linux::available(); available) {
        bench::cold(report);
        bench::fresh(report);
        bench::retained(report);
        bench::pairs(report);
        bench::host_faults(report);
        bench::program_holes(report);
    } else {
        for (const char* const name : {"alloc_100k_cold", "alloc_100k", "host_first_touch", "alloc_touch_100k",
                                       "free_100k", "alloc_100k_retained", "alloc_free_pair", "host_fault_exact",
                                       "host_fault_16", "host_fault_512", "program_hole_read"})
            bench::Report::skip(fmt::format("arena.{}", name), available.error().message());
    }
    bench::random_reads(report);
    bench::two_threads(report);
    return report.write(argc, argv);
}
