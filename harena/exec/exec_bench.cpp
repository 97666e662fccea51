// SPDX-License-Identifier: Apache-2.0
// The exec layer beside asmjit's JitAllocator.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <asmjit/core.h>

#include "harena/base/compare_bench.hpp"
#include "harena/exec/text_space.hpp"

namespace harena {
namespace {

using bench::must;
using bench::seconds;

constexpr std::size_t k_live = 100'000;
constexpr std::size_t k_batch = 32;
constexpr std::uint64_t k_max_small = 1064;
// So that blocks that become empty on the way down are there on the way up.
constexpr std::uint64_t k_keep = 64 * k_mib;

const std::array<std::byte, k_max_small>& code() {
    static const auto bytes = [] {
        std::array<std::byte, k_max_small> nops;
        nops.fill(std::byte{0x90});
        return nops;
    }();
    return bytes;
}

/// Sizes of 64 to 1,064 bytes, the same for both sides.
class Sizes {
public:
    [[nodiscard]] std::uint64_t next() noexcept { return 64 + number() % 1001; }
    [[nodiscard]] std::uint32_t number() noexcept {
        state_ = state_ * 6364136223846793005 + 1442695040888963407;
        return static_cast<std::uint32_t>(state_ >> 33);
    }

private:
    std::uint64_t state_ = 1;
};

class Ours {
public:
    explicit Ours(bool writes, std::uint64_t keep_free = TextSpaceOptions{}.keep_free)
        : space_{must(TextSpace::create({.max_bytes = 2 * k_gib, .keep_free = keep_free}))}, writes_{writes} {}
    void* make(std::uint64_t bytes) {
        void* const piece = must(space_->text_alloc(bytes));
        if (writes_) must(space_->text_poke(piece, std::span{code()}.first(bytes)));
        return piece;
    }
    void drop(void* piece) { must(space_->text_free(piece)); }
    void make_batch(std::span<const std::uint64_t> sizes, std::span<void*> pieces) {
        must(space_->text_alloc_batch(sizes, pieces));
        std::array<TextPoke, k_batch> pokes;
        for (std::size_t i = 0; i < sizes.size(); ++i)
            pokes[i] = {.dest = pieces[i], .bytes = std::span{code()}.first(sizes[i])};
        must(space_->text_poke_batch(std::span{pokes}.first(sizes.size())));
    }
    void drop_batch(std::span<void* const> pieces) { must(space_->text_free_batch(pieces)); }
    [[nodiscard]] double overhead() const {
        const TextStatistics s = space_->statistics();
        return static_cast<double>(s.reserved_bytes - s.used_bytes) / static_cast<double>(s.used_bytes);
    }
    [[nodiscard]] TextSpace& space() { return *space_; }

private:
    std::unique_ptr<TextSpace> space_;
    bool writes_;
};

enum class Peer : std::uint8_t { unwritten, dual_mapped, dual_filled, toggled };

class Asmjit {
public:
    explicit Asmjit(Peer peer) : peer_{peer}, allocator_{std::make_unique<asmjit::JitAllocator>(parameters(peer))} {}
    void* make(std::uint64_t bytes) {
        void* execute = nullptr;
        void* write = nullptr;
        must(allocator_->alloc(&execute, &write, bytes) == asmjit::kErrorOk, "asmjit has text");
        switch (peer_) {
            case Peer::unwritten:
                break;
            case Peer::dual_mapped:
            case Peer::dual_filled:
                std::memcpy(write, code().data(), bytes);
                break;
            case Peer::toggled: {
                using asmjit::VirtMem::MemoryFlags;
                const auto begin = align_down(reinterpret_cast<std::uint64_t>(execute), k_page_size);
                const auto end = align_up(reinterpret_cast<std::uint64_t>(execute) + bytes, k_page_size);
                auto* const pages = reinterpret_cast<void*>(begin);
                must(asmjit::VirtMem::protect(pages, end - begin, MemoryFlags::kAccessRW) == asmjit::kErrorOk, "RW");
                std::memcpy(execute, code().data(), bytes);
                must(asmjit::VirtMem::protect(pages, end - begin, MemoryFlags::kAccessRX) == asmjit::kErrorOk, "RX");
                break;
            }
        }
        return execute;
    }
    void drop(void* piece) { must(allocator_->release(piece) == asmjit::kErrorOk, "asmjit takes text back"); }
    void make_batch(std::span<const std::uint64_t> sizes, std::span<void*> pieces) {
        for (std::size_t i = 0; i < sizes.size(); ++i) pieces[i] = make(sizes[i]);
    }
    void drop_batch(std::span<void* const> pieces) {
        for (void* const piece : pieces) drop(piece);
    }
    [[nodiscard]] std::uint64_t reserved() const { return allocator_->statistics().reservedSize(); }

private:
    static const asmjit::JitAllocator::CreateParams* parameters(Peer peer) {
        using asmjit::JitAllocatorOptions;
        static asmjit::JitAllocator::CreateParams options;
        options.reset();
        if (peer == Peer::dual_mapped) options.options = JitAllocatorOptions::kUseDualMapping;
        if (peer == Peer::dual_filled)
            options.options = JitAllocatorOptions::kUseDualMapping | JitAllocatorOptions::kFillUnusedMemory;
        return &options;
    }
    Peer peer_;
    std::unique_ptr<asmjit::JitAllocator> allocator_;
};

/// Up to 100,000 pieces, and down again; nanoseconds a pair of allocation and release.
template <typename Side>
double up_and_down(Side& side) {
    static std::vector<void*> pieces(k_live);
    Sizes sizes;
    return 1e9 / k_live * seconds([&] {
               for (void*& piece : pieces) piece = side.make(sizes.next());
               for (void* const piece : pieces) side.drop(piece);
           });
}

/// 100,000 pieces live all the time: one at random goes, another comes.
template <typename Side>
class Steady {
public:
    explicit Steady(Side& side) : side_{side} {
        for (void*& piece : pieces_) piece = side_.make(sizes_.next());
    }
    double operator()(int pairs) {
        return 1e9 / pairs * seconds([&] {
                   for (int i = 0; i < pairs; ++i) {
                       void*& piece = pieces_[sizes_.number() % k_live];
                       side_.drop(piece);
                       piece = side_.make(sizes_.next());
                   }
               });
    }

private:
    Side& side_;
    Sizes sizes_;
    std::vector<void*> pieces_ = std::vector<void*>(k_live);
};

/// The same, 32 pieces at a time.
template <typename Side>
class SteadyBatches {
public:
    explicit SteadyBatches(Side& side) : side_{side} {
        for (std::size_t i = 0; i < k_live; i += k_batch) make(i);
    }
    double operator()(int batches) {
        return 1e9 / batches / k_batch * seconds([&] {
                   for (int i = 0; i < batches; ++i) {
                       const std::size_t first = sizes_.number() % (k_live / k_batch) * k_batch;
                       side_.drop_batch(std::span{pieces_}.subspan(first, k_batch));
                       make(first);
                   }
               });
    }

private:
    void make(std::size_t first) {
        std::array<std::uint64_t, k_batch> wanted;
        for (std::uint64_t& bytes : wanted) bytes = sizes_.next();
        side_.make_batch(wanted, std::span{pieces_}.subspan(first, k_batch));
    }
    Side& side_;
    Sizes sizes_;
    std::vector<void*> pieces_ = std::vector<void*>(k_live);
};

template <typename Side>
double batches_up_and_down(Side& side) {
    static std::vector<void*> pieces(k_live);
    Sizes sizes;
    return 1e9 / k_live * seconds([&] {
               for (std::size_t i = 0; i < k_live; i += k_batch) {
                   std::array<std::uint64_t, k_batch> wanted;
                   for (std::uint64_t& bytes : wanted) bytes = sizes.next();
                   side.make_batch(wanted, std::span{pieces}.subspan(i, k_batch));
               }
               for (std::size_t i = 0; i < k_live; i += k_batch) side.drop_batch(std::span{pieces}.subspan(i, k_batch));
           });
}

void allocation(bench::Report& report) {
    {
        Ours ours{false, k_keep};
        Asmjit peer{Peer::unwritten};
        report.add("exec.alloc_free",
                   bench::alternate(
                       9, [&] { return up_and_down(ours); }, [&] { return up_and_down(peer); }),
                   "asmjit", "ns", "a pair; up to 100,000 live pieces and down again");
        Steady steady_ours{ours};
        Steady steady_peer{peer};
        report.add("exec.alloc_free_steady",
                   bench::alternate(
                       5, [&] { return steady_ours(20'000); }, [&] { return steady_peer(20'000); }),
                   "asmjit", "ns", "a pair at random of 100,000 that stay");
    }
    Ours ours{true, k_keep};
    Asmjit dual{Peer::dual_mapped};
    const bench::Pair against_dual =
        bench::alternate(5, [&] { return up_and_down(ours); }, [&] { return up_and_down(dual); });
    {
        Asmjit toggled{Peer::toggled};
        report.add("exec.alloc_poke_free_up_down",
                   bench::alternate(
                       5, [&] { return up_and_down(ours); }, [&] { return up_and_down(toggled); }),
                   "asmjit, W^X by mprotect", "ns",
                   fmt::format("a pair; up to 100,000 and down; asmjit dual-mapped {:.0f} ns", against_dual.peer));
    }
    {
        Asmjit toggled{Peer::toggled};
        Steady steady_ours{ours};
        Steady steady_peer{toggled};
        Steady steady_dual{dual};
        const double dual_ns = steady_dual(20'000);
        report.add("exec.alloc_poke_free",
                   bench::alternate(
                       5, [&] { return steady_ours(20'000); }, [&] { return steady_peer(10'000); }),
                   "asmjit, W^X by mprotect", "ns",
                   fmt::format("a pair at random of 100,000 that stay; asmjit dual-mapped {:.0f} ns", dual_ns));
    }
}

void batches(bench::Report& report) {
    Ours ours{true, k_keep};
    Asmjit dual{Peer::dual_mapped};
    Asmjit filled{Peer::dual_filled};
    const double filled_ns = (batches_up_and_down(filled), batches_up_and_down(filled));
    report.add("exec.alloc_poke_free_batch",
               bench::alternate(
                   5, [&] { return batches_up_and_down(ours); }, [&] { return batches_up_and_down(dual); }),
               "asmjit, dual-mapped", "ns",
               fmt::format("a piece of 32; up to 100,000 and down; asmjit that fills freed text too {:.0f} ns",
                           filled_ns));
    SteadyBatches steady_ours{ours};
    SteadyBatches steady_dual{dual};
    report.add("exec.alloc_poke_free_batch_steady",
               bench::alternate(
                   5, [&] { return steady_ours(2'000); }, [&] { return steady_dual(500); }),
               "asmjit, dual-mapped", "ns", "a piece of 32 that go together, at random of 100,000 that stay");
}

/// Many small trampolines, some functions of 10 to 100 KiB, a few images of some MiB.
class RealisticSizes {
public:
    [[nodiscard]] std::uint64_t next() noexcept {
        const std::uint64_t kind = random_() % 10'000;
        if (kind < 8'800) return 16 + random_() % 497;
        if (kind < 9'999) return 10 * k_kib + random_() % (90 * k_kib);
        return k_mib + random_() % (3 * k_mib);
    }
    [[nodiscard]] std::uint32_t number() noexcept { return static_cast<std::uint32_t>(random_()); }

private:
    std::mt19937 random_{42};
};

void overhead(bench::Report& report) {
    constexpr std::size_t k_pieces = 40'000;
    constexpr int k_operations = 1'000'000;
    // Both are asked for the same, piece by piece; used is what was asked for.
    Ours ours{false};
    Asmjit peer{Peer::unwritten};
    RealisticSizes sizes;
    struct Piece {
        void* ours;
        void* peer;
        std::uint64_t bytes;
    };
    std::vector<Piece> pieces;
    std::uint64_t used = 0;
    const auto add = [&] {
        const std::uint64_t bytes = sizes.next();
        pieces.push_back({ours.make(bytes), peer.make(bytes), bytes});
        used += bytes;
    };
    const auto remove = [&] {
        std::swap(pieces[sizes.number() % pieces.size()], pieces.back());
        ours.drop(pieces.back().ours);
        peer.drop(pieces.back().peer);
        used -= pieces.back().bytes;
        pieces.pop_back();
    };
    while (pieces.size() < k_pieces) add();
    for (int i = 0; i < k_operations; ++i) {
        // Between 39,000 and 41,000 pieces.
        const bool more = pieces.size() < 39'000 || (pieces.size() < 41'000 && sizes.number() % 2 == 0);
        more ? add() : remove();
    }
    const double asked = static_cast<double>(used);
    const TextStatistics s = ours.space().statistics();
    must(s.used_bytes == used, "the statistics know what was asked for");
    report.add("exec.overhead",
               {.ours = static_cast<double>(s.reserved_bytes) / asked - 1,
                .peer = static_cast<double>(peer.reserved()) / asked - 1},
               "asmjit", "ratio", fmt::format("of {:.0f} MiB in {} pieces", asked / (1 << 20), pieces.size()));
    for (const Piece& piece : pieces) ours.drop(piece.ours);
}

void large(bench::Report& report) {
    constexpr std::uint64_t k_bytes = 3 * k_mib;
    constexpr int k_pieces = 32;
    Ours ours{false};
    Asmjit peer{Peer::unwritten};
    for (int i = 0; i < k_pieces; ++i) {
        bench::keep(ours.make(k_bytes));
        bench::keep(peer.make(k_bytes));
    }
    constexpr double k_used = k_pieces * static_cast<double>(k_bytes);
    report.add("exec.large_3m", {.ours = ours.overhead(), .peer = static_cast<double>(peer.reserved()) / k_used - 1},
               "asmjit", "ratio", "wasted of 32 pieces of 3 MiB");
}

/// Functions of 256 bytes that return, called in random order; nanoseconds a call.
class Calls {
public:
    explicit Calls(bool huge) : space_{must(TextSpace::create({.huge_pages = huge}))} {
        std::array<std::byte, 256> function;
        function.fill(std::byte{0x90});
        function[0] = std::byte{0xc3};
        for (std::size_t i = 0; i < k_functions; ++i) {
            void* const piece = must(space_->text_alloc(function.size()));
            must(space_->text_poke(piece, function));
            functions_.push_back(reinterpret_cast<void (*)()>(piece));
        }
        std::ranges::shuffle(functions_, std::mt19937{7});
    }
    double operator()() {
        constexpr int k_rounds = 50;
        return 1e9 / k_rounds / k_functions * seconds([&] {
                   for (int i = 0; i < k_rounds; ++i)
                       for (const auto function : functions_) function();
               });
    }
    [[nodiscard]] MappedBytes mapped() const { return must(space_->mapped()); }

private:
    static constexpr std::size_t k_functions = 20'000;
    std::unique_ptr<TextSpace> space_;
    std::vector<void (*)()> functions_;
};

void calls(bench::Report& report) {
    Calls huge{true};
    Calls small{false};
    const bench::Pair times = bench::alternate(9, [&] { return huge(); }, [&] { return small(); });
    report.add("exec.call_2m", times, "on 4 KiB entries", "ns",
               fmt::format("a call of 20,000 functions; {} and {} MiB on 2 MiB entries", huge.mapped().bytes_2m >> 20,
                           small.mapped().bytes_2m >> 20));
}

/// A function of `mov eax, imm32; ret` whose number changes while a thread calls it: it must return a whole one.
class Patched {
public:
    explicit Patched(TextPatchMode mode) : mode_{mode} {
        piece_ = must(space_->text_alloc(16, {.alignment = 64}));
        must(space_->text_poke(piece_, instruction(number_of(0))));
        caller_ = std::thread{[this] {
            const auto function = reinterpret_cast<std::uint32_t (*)()>(piece_);
            while (!stop_.load(std::memory_order_relaxed)) {
                const std::uint32_t number = function();
                if (number != number_of(number >> 16)) bad_.fetch_add(1, std::memory_order_relaxed);
                calls_.fetch_add(1, std::memory_order_relaxed);
            }
        }};
    }
    Patched(const Patched&) = delete;
    Patched& operator=(const Patched&) = delete;
    ~Patched() {
        stop_ = true;
        caller_.join();
        must(bad_.load() == 0, "no call saw half a patch");
        must(calls_.load() > 0, "the function was called");
    }
    double operator()(std::uint64_t patches) {
        return 1e9 / static_cast<double>(patches) * seconds([&] {
                   for (std::uint64_t i = 0; i < patches; ++i) {
                       const auto next = instruction(number_of(++last_));
                       must(space_->text_patch(piece_, std::span{next}.first(5), mode_));
                   }
               });
    }
    [[nodiscard]] std::uint64_t calls() const { return calls_.load(); }

private:
    // Four bytes that say the same twice: a mixture of two numbers is none.
    static constexpr std::uint32_t number_of(std::uint32_t i) { return (i & 0xffff) << 16 | (~i & 0xffff); }
    static std::array<std::byte, 6> instruction(std::uint32_t number) {
        std::array<std::byte, 6> bytes{std::byte{0xb8}, {}, {}, {}, {}, std::byte{0xc3}};
        std::memcpy(&bytes[1], &number, sizeof number);
        return bytes;
    }
    std::unique_ptr<TextSpace> space_ = must(TextSpace::create());
    TextPatchMode mode_;
    void* piece_ = nullptr;
    std::uint32_t last_ = 0;
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> bad_{0};
    std::atomic<std::uint64_t> calls_{0};
    std::thread caller_;
};

void patches(bench::Report& report, std::uint64_t count) {
    const auto permitted = must(TextSpace::create())->plain_patches_permitted();
    std::uint64_t calls = 0;
    std::array<double, 2> times{};
    {
        Patched patched{TextPatchMode::breakpoint};
        times[0] = patched(count);
        calls += patched.calls();
    }
    if (permitted) {
        Patched patched{TextPatchMode::plain};
        times[1] = patched(count);
        calls += patched.calls();
    } else {
        fmt::print("no plain patches: {}\n", permitted.error().message());
    }
    report.add("exec.patch", {.ours = times[0], .peer = times[1]}, "a plain poke of 8 bytes", "ns",
               fmt::format("{} live patches each way, {} calls meanwhile, none wrong", count, calls));
}

}  // namespace
}  // namespace harena

int main(int argc, char** argv) {
    harena::bench::Report report;
    // HARENA_TEXT_PATCHES=10000000 is the long run, of nothing else.
    if (const char* const wanted = std::getenv("HARENA_TEXT_PATCHES")) {
        harena::patches(report, std::strtoull(wanted, nullptr, 10));
        return report.write(argc, argv);
    }
    harena::allocation(report);
    harena::batches(report);
    harena::overhead(report);
    harena::large(report);
    harena::calls(report);
    harena::patches(report, 20'000);
    return report.write(argc, argv);
}
