// SPDX-License-Identifier: Apache-2.0
// The secret layer beside OpenSSL's secure heap, libsodium, and plain mprotect.
#include <fcntl.h>
#include <openssl/crypto.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "harena/base/compare_bench.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/process.hpp"
#include "harena/secret/secret_heap.hpp"
#include "harena/secret/secret_pages.hpp"

namespace harena {
namespace {

using bench::must;
using bench::seconds;

constexpr std::size_t k_key_bytes = 32;

/// Calls `visit(line)` for each line of a file of /proc. Needs no memory: a process may have used up its mappings.
template <typename Visit>
void each_line(const char* path, Visit&& visit) {
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    std::array<char, 8192> buffer;
    std::size_t kept = 0;
    for (ssize_t got = 0; (got = ::read(file, buffer.data() + kept, buffer.size() - kept)) > 0;) {
        std::string_view text{buffer.data(), kept + static_cast<std::size_t>(got)};
        for (std::size_t end = 0; (end = text.find('\n')) != std::string_view::npos; text.remove_prefix(end + 1))
            visit(text.substr(0, end));
        kept = text.size();
        std::memmove(buffer.data(), text.data(), kept);
    }
    ::close(file);
}
/// The number in the line "<key>  <number> kB", in bytes.
std::uint64_t kib_line(const char* path, std::string_view key) {
    std::uint64_t kib = 0;
    each_line(path, [&](std::string_view line) {
        if (line.starts_with(key)) kib = std::strtoull(line.data() + key.size(), nullptr, 10);
    });
    return kib * k_kib;
}
std::uint64_t locked_bytes() { return kib_line("/proc/self/status", "VmLck:"); }
std::uint64_t direct_map_4k() { return kib_line("/proc/meminfo", "DirectMap4k:"); }
std::uint64_t mappings() {
    std::uint64_t count = 0;
    each_line("/proc/self/maps", [&](std::string_view) { ++count; });
    return count;
}

/// What `work()` returns, in a process of its own: some of it leaves the process unusable.
template <typename Values, typename Work>
Values in_child(Work&& work) {
    std::array<int, 2> pipe{};
    must(::pipe(pipe.data()) == 0, "a pipe");
    const pid_t child = ::fork();
    if (child == 0) {
        const Values values = work();
        ::_exit(::write(pipe[1], &values, sizeof values) == ssize_t{sizeof values} ? 0 : 1);
    }
    Values values{};
    must(::read(pipe[0], &values, sizeof values) == ssize_t{sizeof values}, "a child that ends well");
    ::waitpid(child, nullptr, 0);
    ::close(pipe[0]);
    ::close(pipe[1]);
    return values;
}

/// Nanoseconds of `pair()`, called so many times.
template <typename Work>
double each_ns(int times, Work&& pair) {
    return 1e9 / times * seconds([&] {
               for (int i = 0; i < times; ++i) pair();
           });
}

void allocation(bench::Report& report) {
    const auto heap = must(SecretHeap::create());
    must(CRYPTO_secure_malloc_init(64 * k_mib, 16) == 1, "OpenSSL's secure heap");
    must(sodium_init() >= 0, "libsodium");
    const auto ours = [&] {
        return each_ns(1'000'000, [&] {
            void* const key = must(heap->alloc(k_key_bytes));
            bench::keep(key);
            (void)heap->free(key);
        });
    };
    report.add("secret.alloc_free_32",
               bench::alternate(9, ours,
                                [] {
                                    return each_ns(50'000, [] {
                                        void* const key = OPENSSL_secure_malloc(k_key_bytes);
                                        bench::keep(key);
                                        OPENSSL_secure_clear_free(key, k_key_bytes);
                                    });
                                }),
               "OpenSSL secure heap", "ns", "alloc and free, wiped and checked; theirs of 64 MiB");
    report.add("secret.alloc_free_32_libsodium",
               bench::alternate(9, ours,
                                [] {
                                    return each_ns(2'000, [] {
                                        void* const key = sodium_malloc(k_key_bytes);
                                        bench::keep(key);
                                        sodium_free(key);
                                    });
                                }),
               "libsodium", "ns", "alloc and free, wiped and checked");

    // Where others use the processors, too, the throughput says little, and the processor time of a pair says whether
    // the threads are in each other's way.
    std::array<std::vector<double>, 3> cpu_ns;
    const auto throughput = [&](int threads) {
        constexpr int k_pairs = 3'000'000;
        std::vector<std::thread> running;
        std::atomic<std::uint64_t> cpu{0};
        const double took = seconds([&] {
            for (int t = 0; t < threads; ++t)
                running.emplace_back([&] {
                    for (int i = 0; i < k_pairs; ++i) {
                        void* const key = must(heap->alloc(k_key_bytes));
                        bench::keep(key);
                        (void)heap->free(key);
                    }
                    cpu += os::ThreadCpuClock::of_this_thread().now_ns();
                });
            for (std::thread& thread : running) thread.join();
        });
        cpu_ns[static_cast<std::size_t>(threads)].push_back(static_cast<double>(cpu) / threads / k_pairs);
        return threads * k_pairs / took / 1e6;
    };
    report.add("secret.alloc_free_32_2threads",
               bench::alternate(
                   9, [&] { return throughput(2); }, [&] { return throughput(1); }),
               "one thread", "M/s", "two threads together");
    report.add("secret.alloc_free_32_2threads_cpu", {bench::median(cpu_ns[2]), bench::median(cpu_ns[1])}, "one thread",
               "ns", "processor time of a pair");
}

struct Live {
    double secrets;
    double locked_bytes;  // of each
    double mappings;      // added
};

void live(bench::Report& report) {
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    constexpr std::uint64_t k_million = 1'000'000;
    const Live ours = in_child<Live>([] {
        std::vector<void*> keys;
        keys.reserve(k_million);
        const std::uint64_t locked = locked_bytes();
        const std::uint64_t maps = mappings();
        const auto heap = must(SecretHeap::create());
        while (keys.size() < k_million) {
            const auto key = heap->alloc(k_key_bytes);
            if (!key) break;
            std::memset(*key, 0x5a, k_key_bytes);
            keys.push_back(*key);
        }
        const auto count = static_cast<double>(keys.size());
        return Live{count, static_cast<double>(locked_bytes() - locked) / count,
                    static_cast<double>(mappings() - maps)};
    });
    const Live sodium = in_child<Live>([] {
        must(sodium_init() >= 0, "libsodium");
        const std::uint64_t locked = locked_bytes();
        const std::uint64_t maps = mappings();
        double count = 0;
        while (count < k_million && sodium_malloc(k_key_bytes) != nullptr) ++count;
        return Live{count, static_cast<double>(locked_bytes() - locked) / count,
                    static_cast<double>(mappings() - maps)};
    });
    const std::string note = fmt::format("{} live; libsodium fails at {}", ours.secrets, sodium.secrets);
    report.add("secret.live_1m", {ours.locked_bytes, sodium.locked_bytes}, "libsodium", "bytes",
               "locked memory a secret; " + note);
    report.add("secret.live_1m_mappings", {ours.mappings, sodium.mappings}, "libsodium", "mappings", "added; " + note);
}

void window(bench::Report& report) {
    constexpr int k_rounds = 10'000;
    constexpr std::uint64_t k_pages = 4;
    const auto pages = must(SecretPages::create(PageCount{k_pages}));
    auto* const peer = static_cast<volatile std::byte*>(::mmap(nullptr, k_pages * k_page_size, PROT_READ | PROT_WRITE,
                                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    report.add("secret.window",
               bench::alternate(
                   9,
                   [&] {
                       return 1e-3 * each_ns(k_rounds, [&] {
                                  const SecretWindow open = must(pages->open());
                                  *static_cast<volatile std::byte*>(open.data()) = std::byte{1};
                              });
                   },
                   [&] {
                       return 1e-3 * each_ns(k_rounds, [&] {
                                  ::mprotect(const_cast<std::byte*>(peer), k_pages * k_page_size,
                                             PROT_READ | PROT_WRITE);
                                  *peer = std::byte{1};
                                  ::mprotect(const_cast<std::byte*>(peer), k_pages * k_page_size, PROT_NONE);
                              });
                   }),
               "mprotect pair", "us", "16 KiB mapped, one page touched, unmapped");
}

/// Growth in bytes. What a page's neighbours were split by before costs nothing again, so the first round tells most,
/// and who is first is at a disadvantage: the sum over rounds in turn.
void direct_map(bench::Report& report) {
    constexpr std::uint64_t k_bytes = 64 * k_mib;
    constexpr std::uint64_t k_files = k_bytes / k_page_size;
    const auto grown = [](auto&& fill) {
        return in_child<double>([&] {
            const std::uint64_t before = direct_map_4k();
            [[maybe_unused]] const auto held = fill();
            return static_cast<double>(direct_map_4k()) - static_cast<double>(before);
        });
    };
    const auto ours = [&] {
        return grown([] {
            auto heap = must(SecretHeap::create());
            while (heap->statistics().locked_bytes < k_bytes) (void)must(heap->alloc(2000));
            return heap;
        });
    };
    const auto peer = [&] {
        return grown([] {
            std::vector<std::uint32_t> order(k_files);
            std::iota(order.begin(), order.end(), 0U);
            std::ranges::shuffle(order, std::mt19937{1});
            std::vector<volatile std::byte*> files(k_files);
            for (volatile std::byte*& one : files) {
                const auto file = os::memfd_secret();
                must(file && os::ftruncate(file->get(), k_page_size), "a memfd_secret file");
                void* const at = ::mmap(nullptr, k_page_size, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
                must(at != MAP_FAILED, "a mapping of it");
                one = static_cast<volatile std::byte*>(at);
            }
            for (const std::uint32_t i : order) *files[i] = std::byte{1};
            return files;
        });
    };
    bench::Pair sum{.ours = 0, .peer = 0};
    std::string rounds;
    for (int round = 0; round < 3; ++round) {
        const double first = ours();
        const double second = peer();
        rounds +=
            fmt::format(" {:.0f}/{:.0f}", first / static_cast<double>(k_mib), second / static_cast<double>(k_mib));
        sum.ours += first / static_cast<double>(k_mib);
        sum.peer += second / static_cast<double>(k_mib);
    }
    report.add("secret.direct_map_4k", sum, "files of one page", "MiB",
               "growth for 64 MiB, three times in turn, ours first:" + rounds);
}

}  // namespace
}  // namespace harena

int main(int argc, char** argv) {
    harena::bench::Report report;
    if (const auto heap = harena::SecretHeap::create(); !heap) {
        harena::bench::Report::skip("secret", heap.error().message());
        return report.write(argc, argv);
    }
    harena::direct_map(report);
    harena::allocation(report);
    harena::window(report);
    harena::live(report);
    return report.write(argc, argv);
}
