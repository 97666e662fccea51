// SPDX-License-Identifier: Apache-2.0
//
// Four processes of two threads at random operations on one arena, killed at any instruction and started again; after
// each round everybody stops, and every page is accounted for. docs/arena.md, "Torture".
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/process.hpp"
#include "tests/torture/worker.hpp"

namespace harena::torture {
namespace {

constexpr std::uint64_t k_second_ns = 1'000'000'000;
constexpr int k_patience_ms = 20'000;

std::uint64_t number_of(const char* variable, std::uint64_t otherwise) {
    const char* const text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// A worker process and the pipe on which its threads say that they have stopped.
struct Process {
    std::unique_ptr<test::Peer> peer;
    os::FileDescriptor parked;
    std::uint16_t life = 0;
};

class ArenaTorture : public ::testing::Test {
protected:
    void SetUp() override {
        if (test::k_thread_sanitizer)
            GTEST_SKIP() << "the thread sanitizer sees one process only, not what others do to the words in between";
        seed_ = number_of("HARENA_TORTURE_SEED", 1);
        seconds_ = number_of("HARENA_TORTURE_SECONDS", 15);
        arena_ = test::make_tuned_arena(
            {.name = "torture", .pages = PageCount{k_pages}, .tuning = {.recycle = PageCount{64}}});
        ASSERT_NE(arena_, nullptr);
        if (!arena_->watched()) GTEST_SKIP() << "no userfaultfd: touches are seen late";
        shared_ = test::shared_descriptor(*arena_);
        auto file = ArenaFile::open(fmt::format("/proc/self/fd/{}", shared_.get()));
        ASSERT_TRUE(file) << file.error().message();
        file_ = std::move(*file);
        const os::FileDescriptor memory{::memfd_create("torture log", MFD_CLOEXEC)};
        ASSERT_EQ(::ftruncate(memory.get(), sizeof(SharedLog)), 0);
        void* const mapped = ::mmap(nullptr, sizeof(SharedLog), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
        ASSERT_NE(mapped, MAP_FAILED);
        log_ = static_cast<SharedLog*>(mapped);
    }
    void TearDown() override {
        processes_ = {};
        if (log_ != nullptr) (void)::munmap(log_, sizeof *log_);
    }

    void start(std::size_t worker);
    [[noreturn]] void work(std::size_t worker, std::uint16_t life, int parked);
    void kill(std::size_t worker);
    void free_what_it_surely_had(std::size_t worker, std::uint16_t life);
    void run_a_while();
    void stop_all();
    void go_on();
    void check_all();
    void check_page(std::uint64_t page, const ArenaRange* range);
    void check_owned(std::uint64_t page, Entry entry, const ArenaRange* range);
    void check_counters();
    void check_times();
    [[nodiscard]] bool lives(Entry entry) const {
        return entry.thread < k_threads && processes_[entry.thread / k_threads_each].life == entry.life;
    }
    [[nodiscard]] std::string failure() const {
        return log_->failed.load() == 0 ? "(it left no word)" : log_->failure.data();
    }
    [[nodiscard]] std::byte* at(std::uint64_t page) const { return test::page_at(*arena_, page); }
    [[nodiscard]] bool has_pattern(std::uint64_t page) const {
        return first_difference(reinterpret_cast<const std::uint64_t*>(at(page)), log_->pattern[page].load()) < 0;
    }

    std::uint64_t seed_ = 0;
    std::uint64_t seconds_ = 0;
    std::shared_ptr<ProcessArena> arena_;
    os::FileDescriptor shared_;
    std::unique_ptr<ArenaFile> file_;
    SharedLog* log_ = nullptr;
    std::array<Process, k_workers> processes_;
    Random random_{0};
    // Pages that those who died in this round may have got without having said so.
    std::uint64_t in_doubt_ = 0;
    std::uint64_t kills_ = 0;
    std::uint64_t recovered_ = 0;
    std::uint64_t longest_ns_ = 0;
    std::uint64_t found_in_doubt_ = 0;
    std::uint64_t freed_for_the_dead_ = 0;
};

void ArenaTorture::start(std::size_t worker) {
    Process& process = processes_[worker];
    ++process.life;
    std::array<int, 2> ends{-1, -1};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    process.parked = os::FileDescriptor{ends[0]};
    process.peer = std::make_unique<test::Peer>([&](test::Peer&) { work(worker, process.life, ends[1]); });
    ::close(ends[1]);
}

void ArenaTorture::work(std::size_t worker, std::uint16_t life, int parked) {
    ::alarm(static_cast<unsigned>(seconds_ + 60));
    Random random{seed_ << 32 ^ worker << 16 ^ life};
    constexpr std::array<std::uint64_t, 4> k_recycle{0, 32, 256, 2048};
    const std::uint64_t granule = random.one_in(3) ? 16 : 1;
    file_->abandon_in_child();
    const auto arena = test::attach_instead(arena_, shared_.get(),
                                            {.tuning = {.recycle = PageCount{k_recycle[random.below(k_recycle.size())]},
                                                        .fault_granule = PageCount{granule},
                                                        .deterministic = random.one_in(4)}});
    if (arena == nullptr) ::_exit(2);
    std::vector<std::thread> threads;
    threads.reserve(k_threads_each);
    for (std::size_t i = 0; i < k_threads_each; ++i)
        threads.emplace_back([&, i, seed = random.next()] {
            Worker{*arena, *log_, worker * k_threads_each + i, life, seed, granule, parked}.run();
        });
    for (;;) ::pause();
}

void ArenaTorture::kill(std::size_t worker) {
    Process& process = processes_[worker];
    process.peer->kill();
    ++kills_;
    for (std::size_t i = 0; i < k_threads_each; ++i) {
        ThreadLog& thread = log_->threads[worker * k_threads_each + i];
        const std::uint64_t step = thread.step.load();
        if (step % 2 != 0) in_doubt_ += thread.in_doubt.load();
        thread.in_doubt.store(0);
        thread.step.store(step + 2 - step % 2);
        thread.longest_ns.store(0);
    }
    // Else whoever of the others meets them, or the successor when it attaches.
    if (random_.one_in(2)) recovered_ += arena_->recover().value().value();
    free_what_it_surely_had(worker, process.life);
}

// While the others go on.
void ArenaTorture::free_what_it_surely_had(std::size_t worker, std::uint16_t life) {
    for (std::uint64_t page = 0; page < k_pages; ++page) {
        Entry entry = log_->board[page].load();
        if (!entry.owned() || entry.thread / k_threads_each != worker) continue;
        ASSERT_EQ(entry.life, life) << "page " << page;
        if (entry.has_pattern()) {
            ASSERT_TRUE(has_pattern(page)) << "page " << page << " of the dead";
        }
        const Entry freeing{Holding::freeing, k_parent, 0};
        ASSERT_TRUE(log_->board[page].compare_exchange_strong(entry, freeing)) << "page " << page << " of the dead";
        ASSERT_TRUE(test::ok(arena_->free_pages(at(page), PageCount{1}))) << "page " << page << " of the dead";
        entry = freeing;
        (void)log_->board[page].compare_exchange_strong(entry, Entry{});
        ++freed_for_the_dead_;
    }
}

// Waits for a time that the seed gives, and sees at once if a worker ends by itself.
void ArenaTorture::run_a_while() {
    std::array<pollfd, k_workers> ends;
    for (std::size_t i = 0; i < k_workers; ++i)
        ends[i] = {.fd = processes_[i].parked.get(), .events = POLLIN, .revents = 0};
    const int ms = static_cast<int>(random_.below(25));
    ASSERT_EQ(::poll(ends.data(), ends.size(), ms), 0) << "a worker has ended: " << failure();
}

void ArenaTorture::stop_all() {
    log_->paused.store(1);
    for (const Process& process : processes_)
        for (std::size_t i = 0; i < k_threads_each; ++i) {
            pollfd end{.fd = process.parked.get(), .events = POLLIN, .revents = 0};
            ASSERT_EQ(::poll(&end, 1, k_patience_ms), 1) << "a worker does not stop: a call that does not return";
            char byte = 0;
            ASSERT_EQ(::read(end.fd, &byte, 1), 1) << "a worker has ended: " << failure();
        }
}

void ArenaTorture::go_on() {
    log_->paused.store(0);
    futex_wake(log_->paused);
}

void ArenaTorture::check_owned(std::uint64_t page, Entry entry, const ArenaRange* range) {
    ASSERT_NE(range, nullptr) << "page " << page << " is free, and thread " << int{entry.thread} << " has it";
    EXPECT_EQ(range->reserved, entry.is_reserved()) << "page " << page;
    EXPECT_NE(entry.holding, Holding::freeing) << "page " << page << ": nobody is at work";
    if (entry.has_pattern()) {
        EXPECT_TRUE(has_pattern(page)) << "page " << page << " of thread " << int{entry.thread};
    }
}

// `range`: where the page is, if it is in use.
void ArenaTorture::check_page(std::uint64_t page, const ArenaRange* range) {
    const ArenaWord word = file_->words().load(PageIndex{page});
    ASSERT_FALSE(word.moving()) << "page " << page << ": " << word.bits();
    const bool in_use = word.state() == PageState::used || word.state() == PageState::reserved;
    ASSERT_EQ(in_use, range != nullptr) << "page " << page;
    const Entry entry = log_->board[page].load();
    if (entry.holding != Holding::nothing && lives(entry)) return check_owned(page, entry, range);
    ASSERT_FALSE(entry.owned()) << "page " << page << ": the test has freed what the dead had";
    log_->board[page].store(Entry{});
    if (range == nullptr) return;
    // Nobody's: because somebody died in the middle of a call, or because of a touch that nobody has claimed.
    if (entry.holding == Holding::nothing && log_->may_be_stray[page].load() == 0) {
        ASSERT_EQ(range->process, 0U) << "page " << page << " is lost: process " << range->process << " had it";
        ASSERT_GT(in_doubt_, 0U) << "page " << page << " is lost";
        --in_doubt_;
    }
    ++found_in_doubt_;
    ASSERT_TRUE(test::ok(arena_->free_pages(at(page), PageCount{1})));
}

void ArenaTorture::check_counters() {
    const ArenaStatistics counted = arena_->statistics().value();
    std::uint64_t used = 0;
    std::uint64_t reserved = 0;
    const std::vector<ArenaRange> snapshot = arena_->snapshot().value();
    for (const ArenaRange& range : snapshot) (range.reserved ? reserved : used) += range.pages.value();
    std::uint64_t owned = 0;
    for (const auto& entry : log_->board) owned += entry.load().holding == Holding::nothing ? 0U : 1U;
    std::uint64_t recycled = 0;
    for (std::uint64_t page = 0; page < k_pages; ++page)
        recycled += file_->words().load(PageIndex{page}).state() == PageState::recycled ? 1U : 0U;
    EXPECT_EQ(counted.used, PageCount{used});
    EXPECT_EQ(counted.reserved, PageCount{reserved});
    EXPECT_EQ(counted.recycled, PageCount{recycled});
    EXPECT_EQ(used + reserved, owned);
    EXPECT_EQ(counted.processes, k_workers + 2) << "the workers, the arena of this process, and its view of the words";
}

void ArenaTorture::check_times() {
    for (std::size_t thread = 0; thread < k_threads; ++thread) {
        const std::uint64_t longest_ns = log_->threads[thread].longest_ns.load();
        EXPECT_LT(longest_ns, k_second_ns)
            << "thread " << thread << ", call " << log_->threads[thread].longest_call.load();
        longest_ns_ = std::max(longest_ns_, longest_ns);
    }
}

void ArenaTorture::check_all() {
    ASSERT_TRUE(arena_->recover());
    const auto snapshot = arena_->snapshot();
    ASSERT_TRUE(snapshot) << snapshot.error().message();
    std::vector<const ArenaRange*> ranges(k_pages);
    for (const ArenaRange& range : *snapshot)
        for (std::uint64_t i = 0; i < range.pages.value(); ++i)
            ranges[static_cast<std::uint64_t>(range.address - arena_->data()) / k_page_size + i] = &range;
    for (std::uint64_t page = 0; page < k_pages; ++page) {
        ASSERT_NO_FATAL_FAILURE(check_page(page, ranges[page]));
        log_->may_be_stray[page].store(0);
    }
    in_doubt_ = 0;
    check_counters();
    check_times();
}

TEST_F(ArenaTorture, every_page_is_accounted_for_whoever_is_killed_when) {
    SCOPED_TRACE(fmt::format("HARENA_TORTURE_SEED={}", seed_));
    random_ = Random{seed_};
    const std::uint64_t end_ns = os::monotonic_ns() + seconds_ * k_second_ns;
    for (std::size_t worker = 0; worker < k_workers; ++worker) ASSERT_NO_FATAL_FAILURE(start(worker));
    std::uint64_t rounds = 0;
    for (; os::monotonic_ns() < end_ns; ++rounds) {
        SCOPED_TRACE(fmt::format("round {}", rounds));
        const std::uint64_t victims = 2 + random_.below(6);
        for (std::uint64_t i = 0; i < victims; ++i) {
            ASSERT_NO_FATAL_FAILURE(run_a_while());
            const std::uint64_t victim = random_.below(k_workers);
            ASSERT_NO_FATAL_FAILURE(kill(victim));
            ASSERT_NO_FATAL_FAILURE(start(victim));
        }
        ASSERT_NO_FATAL_FAILURE(run_a_while());
        ASSERT_NO_FATAL_FAILURE(stop_all());
        ASSERT_NO_FATAL_FAILURE(check_all());
        if (HasFailure()) break;
        go_on();
    }
    std::uint64_t calls = 0;
    for (const ThreadLog& thread : log_->threads) calls += thread.calls.load();
    fmt::print(
        "{} s: {} rounds, {} kills, {} calls, the longest {} ms; {} pages freed for the dead, {} in doubt or touched, "
        "{} recovered at once\n",
        seconds_, rounds, kills_, calls, longest_ns_ / 1'000'000, freed_for_the_dead_, found_in_doubt_, recovered_);
    if (HasFailure()) return;
    // All that there is can be had again, and is zero.
    for (std::size_t worker = 0; worker < k_workers; ++worker) ASSERT_NO_FATAL_FAILURE(kill(worker));
    ASSERT_TRUE(arena_->recover());
    arena_->kfunc_free_pages(test::number(arena_->data()), k_pages);
    ASSERT_TRUE(test::ok(arena_->alloc_pages(PageCount{k_pages})));
    EXPECT_TRUE(test::is_zero(arena_->data(), arena_->size()));
}

}  // namespace
}  // namespace harena::torture
