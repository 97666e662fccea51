// SPDX-License-Identifier: Apache-2.0
//
// A process that has the arena and does its worst: the others lose contents and pages, and no more.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "harena/arena/arena_file.hpp"
#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/sharing_test_support.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/os/process.hpp"
#include "tests/torture/shared_log.hpp"

namespace harena::torture {
namespace {

constexpr std::uint64_t k_shared_pages = 1024;
constexpr std::uint64_t k_second_ns = 1'000'000'000;
constexpr std::uint64_t k_run_ns = 3 * k_second_ns;
constexpr std::uint64_t k_longest_ns = 2 * k_second_ns;
/// The first is punched more often than the others, and touched more often.
constexpr std::uint64_t k_hot_page = 0;
/// Where the slots are in the last page.
constexpr std::uint64_t k_slots_offset = 1024;

/// The arena's file as its enemy has it: all of it mapped, nothing of it watched.
class Enemy {
public:
    Enemy(int fd, const ArenaGeometry& geometry, std::uint64_t seed) : fd_{fd}, random_{seed} {
        struct stat status{};
        EXPECT_EQ(::fstat(fd, &status), 0);
        bytes_ = static_cast<std::uint64_t>(status.st_size);
        void* const mapped = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        EXPECT_NE(mapped, MAP_FAILED);
        memory_ = static_cast<std::byte*>(mapped);
        words_offset_ = ArenaFile::words_offset(geometry);
        data_offset_ = ArenaFile::data_offset(geometry);
        std::memcpy(description_.data(), last_page(), sizeof description_);
    }

    // Both go on for longer than the attacked do.
    void punch_everything() {
        while (os::monotonic_ns() < end_ns_) {
            EXPECT_TRUE(punch(0, bytes_));
            for (int i = 0; i < 256; ++i) {
                EXPECT_TRUE(punch(data_offset_, k_page_size));
                words()[k_hot_page].store(static_cast<std::uint32_t>(random_.below(9)));
            }
            // So that there is something to attach to, for a moment.
            if (random_.one_in(2)) std::memcpy(last_page(), description_.data(), sizeof description_);
            EXPECT_FALSE(shorten());
        }
    }
    // Pages on the move for ever, by processes that live and know nothing of it.
    void claim_everything() {
        for (int turn = 0; turn < 256; ++turn) scribble_words();
    }
    void scribble() {
        for (std::uint64_t turn = 0; os::monotonic_ns() < end_ns_; ++turn) {
            switch (random_.below(6)) {
                case 0:
                    scribble_bytes(memory_, words_offset_);
                    break;
                case 1:
                    scribble_bytes(memory_ + words_offset_, k_shared_pages * sizeof(std::uint32_t));
                    break;
                case 2:
                case 3:
                    scribble_words();
                    break;
                case 4:
                    scribble_description();
                    break;
                default:
                    scribble_bytes(last_page() + k_slots_offset, k_page_size - k_slots_offset);
                    break;
            }
            if (turn % 64 == 0) {
                EXPECT_FALSE(shorten());
            }
            if (turn % 256 == 0) lock_all(turn % 512 == 0);
        }
    }

private:
    bool punch(std::uint64_t offset, std::uint64_t bytes) {
        return ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                           static_cast<off_t>(bytes)) == 0;
    }
    [[nodiscard]] std::atomic<std::uint32_t>* words() const {
        return reinterpret_cast<std::atomic<std::uint32_t>*>(memory_ + words_offset_);
    }
    [[nodiscard]] std::byte* last_page() const { return memory_ + bytes_ - k_page_size; }

    void scribble_bytes(std::byte* begin, std::uint64_t bytes) {
        for (int i = 0; i < 64; ++i) begin[random_.below(bytes)] = static_cast<std::byte>(random_.next());
    }
    // Plausible ones: every state, and owners that there are.
    void scribble_words() {
        const auto slots = reinterpret_cast<const std::uint32_t*>(last_page() + k_slots_offset);
        for (int i = 0; i < 64; ++i) {
            const std::uint64_t slot = random_.below(4);
            const PageOwner owner{.slot = static_cast<std::uint8_t>(slot),
                                  .generation = static_cast<std::uint16_t>(slots[2 * slot])};
            words()[random_.below(k_shared_pages)].store(
                ArenaWord{static_cast<PageState>(random_.below(9)), owner}.bits());
        }
    }
    // One that is right but for a field, or wholly, so that there are attachers who believe it.
    void scribble_description() {
        std::array<std::uint64_t, 6> fields = description_;
        switch (random_.below(4)) {
            case 0:
                fields[random_.below(fields.size())] = random_.next();
                break;
            case 1:
                // Not those by which a touch is to be a SIGSEGV, segv_on_fault and strict_reserve: it would be one.
                fields[2] = random_.below(64) & ~std::uint64_t{0b000101};
                break;
            case 2:
                fields[4] += random_.next() % (std::uint64_t{1} << 48) & ~(k_huge_page_size - 1);  // the address
                break;
            default:
                break;
        }
        std::memcpy(last_page(), fields.data(), sizeof fields);
    }
    /// Whether the file's size could be changed, or what may be done with it.
    bool shorten() {
        return ::ftruncate(fd_, 0) == 0 || ::ftruncate(fd_, static_cast<off_t>(bytes_ * 2)) == 0 ||
               ::fcntl(fd_, F_ADD_SEALS, F_SEAL_WRITE) == 0 || ::fcntl(fd_, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0;
    }
    void lock_all(bool lock) {
        for (std::uint64_t slot = 0; slot < AttachSlots::k_slots; ++slot) {
            struct flock one{};
            one.l_type = static_cast<short>(lock ? F_WRLCK : F_UNLCK);
            one.l_whence = SEEK_SET;
            one.l_start = static_cast<off_t>(bytes_ - k_page_size + slot);
            one.l_len = 1;
            (void)::fcntl(fd_, F_OFD_SETLK, &one);
        }
    }

    int fd_;
    Random random_;
    const std::uint64_t end_ns_ = os::monotonic_ns() + k_run_ns + k_second_ns / 2;
    std::uint64_t bytes_ = 0;
    std::byte* memory_ = nullptr;
    std::uint64_t words_offset_ = 0;
    std::uint64_t data_offset_ = 0;
    std::array<std::uint64_t, 6> description_{};
};

/// A thread of the attacked process: it uses the arena as if nothing were wrong. Whatever a call says is right.
class Victim {
public:
    Victim(ProcessArena& arena, std::uint64_t seed) : arena_{arena}, random_{seed} {}

    void run(std::uint64_t end_ns) {
        while (os::monotonic_ns() < end_ns) {
            const std::uint64_t begin_ns = os::monotonic_ns();
            const std::uint64_t what = random_.below(13);
            one_call(what, random_.below(k_shared_pages), 1 + random_.below(4));
            ++calls_;
            const std::uint64_t took = os::monotonic_ns() - begin_ns;
            longest_ns_ = std::max(longest_ns_, took);
            EXPECT_LT(took, k_longest_ns) << "call " << what;
        }
    }
    [[nodiscard]] std::uint64_t calls() const { return calls_; }
    [[nodiscard]] std::uint64_t allocated() const { return allocated_; }
    [[nodiscard]] std::uint64_t longest_ns() const { return longest_ns_; }

private:
    void one_call(std::uint64_t what, std::uint64_t page, std::uint64_t count) {
        count = std::min(count, k_shared_pages - page);
        std::byte* const at = test::page_at(arena_, page);
        switch (what) {
            case 0:
            case 1:
                return got(arena_.alloc_pages(PageCount{what == 0 ? 1 : count}));
            case 2:
                return got(arena_.alloc_pages(PageCount{count}, {.address = at}));
            case 3:
                (void)arena_.free_pages(at, PageCount{count});
                return;
            case 4:
                arena_.kfunc_free_pages(test::number(at), 64);
                return;
            case 5:
                (void)arena_.reserve_pages(at, PageCount{count});
                return;
            case 6:
                (void)arena_.populate(at, count * k_page_size);
                return;
            case 7:
                (void)nofault::load(test::number(at) + random_.below(k_page_size - 8), 8);
                (void)nofault::store(test::number(at), 8, random_.next());
                return;
            case 8:
                seen_ = seen_ + test::byte_at(at);
                return;
            case 9:
                test::byte_at(at) = 1;
                return;
            case 10:
                for (int i = 0; i < 1000; ++i) test::byte_at(test::page_at(arena_, k_hot_page)) = 1;
                return;
            case 11:
                (void)arena_.recover();
                return;
            default:
                (void)arena_.statistics();
                (void)arena_.snapshot();
                (void)arena_.set_recycle(PageCount{random_.one_in(2) ? 0U : 1024U});
                return;
        }
    }
    void got(const Result<void*>& pages) {
        if (!pages) return;
        ++allocated_;
        EXPECT_TRUE(arena_.contains(*pages, k_page_size));
        test::byte_at(*pages) = 7;
        if (random_.one_in(2)) (void)arena_.free_pages(*pages, PageCount{1});
    }

    ProcessArena& arena_;
    Random random_;
    std::uint64_t seen_ = 0;
    std::uint64_t calls_ = 0;
    std::uint64_t allocated_ = 0;
    std::uint64_t longest_ns_ = 0;
};

/// An arena that the attacked process has for itself, and memory that is no arena's: nothing ever goes wrong there.
class Untouched {
public:
    Untouched() : arena_{test::make_arena({.name = "untouched", .pages = PageCount{64}})}, memory_(1 << 20) {
        for (std::size_t i = 0; i < memory_.size(); ++i) memory_[i] = pattern_word(1, i);
    }
    void use_once() {
        const auto pages = arena_->alloc_pages(PageCount{3});
        ASSERT_TRUE(test::ok(pages));
        auto* const bytes = static_cast<std::byte*>(*pages);
        ASSERT_TRUE(test::is_zero(bytes, 3 * k_page_size));
        std::memset(bytes, 0x5a, 3 * k_page_size);
        test::byte_at(test::page_at(*arena_, 63)) = 1;
        ASSERT_EQ(test::usage(*arena_), "4 0");
        ASSERT_TRUE(test::ok(arena_->free_pages(bytes, PageCount{3})));
        ASSERT_TRUE(test::ok(arena_->free_pages(test::page_at(*arena_, 63), PageCount{1})));
        ASSERT_EQ(test::usage(*arena_), "0 0");
    }
    [[nodiscard]] bool intact() const {
        for (std::size_t i = 0; i < memory_.size(); ++i)
            if (memory_[i] != pattern_word(1, i)) return false;
        return true;
    }

private:
    std::shared_ptr<ProcessArena> arena_;
    std::vector<std::uint64_t> memory_;
};

class HostilePeer : public ::testing::Test {
protected:
    void SetUp() override {
        if (test::k_thread_sanitizer) GTEST_SKIP() << "the thread sanitizer runs handlers with all signals blocked";
        arena_ = test::make_tuned_arena({.name = "attacked", .pages = PageCount{k_shared_pages}});
        ASSERT_NE(arena_, nullptr);
        if (!arena_->watched()) GTEST_SKIP() << "no userfaultfd: all touches succeed silently";
        shared_ = test::shared_descriptor(*arena_);
        struct stat status{};
        ASSERT_EQ(::fstat(shared_.get(), &status), 0);
        geometry_ = ArenaFile::read_geometry(shared_.get(), static_cast<std::uint64_t>(status.st_size)).value();
    }

    /// A process that does `what`.
    std::unique_ptr<test::Peer> enemy(void (Enemy::*what)(), std::uint64_t seed) {
        return std::make_unique<test::Peer>([this, what, seed](test::Peer& peer) {
            Enemy enemy{shared_.get(), geometry_, seed};
            peer.tell();
            peer.wait();
            (enemy.*what)();
        });
    }
    /// Processes that attach one after the other. Sends how many have, and how many have not.
    std::unique_ptr<test::Peer> attachers() {
        return std::make_unique<test::Peer>([this](test::Peer& peer) {
            const std::uint64_t end_ns = os::monotonic_ns() + k_run_ns;
            std::array<std::uint64_t, 2> outcomes{};
            while (os::monotonic_ns() < end_ns) {
                (void)std::fflush(nullptr);
                const pid_t child = ::fork();
                if (child == 0) {
                    ::alarm(20);
                    ::_exit(attach_and_use() ? 0 : 1);
                }
                int status = -1;
                EXPECT_EQ(::waitpid(child, &status, 0), child);
                EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
                if (WIFEXITED(status)) ++outcomes[WEXITSTATUS(status) == 0 ? 0 : 1];
            }
            peer.send(outcomes);
        });
    }

    /// In a process of its own, since a signal would end it: uses the arena from when it is told to.
    void be_attacked(test::Peer& peer) {
        const auto arena = test::attach_instead(arena_, shared_.get());
        ASSERT_NE(arena, nullptr);
        Untouched untouched;
        peer.tell();
        peer.wait();
        const std::uint64_t end_ns = os::monotonic_ns() + k_run_ns;
        std::array victims{Victim{*arena, 1}, Victim{*arena, 2}};
        std::vector<std::thread> threads;
        threads.reserve(victims.size());
        for (Victim& victim : victims) threads.emplace_back([&victim, end_ns] { victim.run(end_ns); });
        while (os::monotonic_ns() < end_ns && !::testing::Test::HasFailure()) untouched.use_once();
        for (std::thread& thread : threads) thread.join();
        EXPECT_TRUE(untouched.intact());
        for (const Victim& victim : victims) {
            EXPECT_GT(victim.allocated(), 0U);
            fmt::print("attacked: {} calls, {} allocations, the longest call {} us\n", victim.calls(),
                       victim.allocated(), victim.longest_ns() / 1000);
        }
    }

    std::shared_ptr<ProcessArena> arena_;
    os::FileDescriptor shared_;
    ArenaGeometry geometry_;

private:
    bool attach_and_use() {
        arena_.reset();
        const auto arena = ProcessArena::attach(shared_.get());
        if (!arena) return false;
        Victim{**arena, 3}.run(os::monotonic_ns() + k_second_ns / 100);
        return true;
    }
};

TEST_F(HostilePeer, cannot_crash_or_stop_the_others_whatever_it_writes_and_punches) {
    test::Peer attacked{[this](test::Peer& peer) { be_attacked(peer); }};
    attacked.wait();
    const auto punching = enemy(&Enemy::punch_everything, 1);
    const auto scribbling = enemy(&Enemy::scribble, 2);
    punching->wait();
    scribbling->wait();
    punching->tell();
    scribbling->tell();
    const auto attaching = attachers();
    attacked.tell();
    EXPECT_TRUE(attacked.ends_well());
    const auto [attached, refused] = attaching->receive<std::array<std::uint64_t, 2>>();
    fmt::print("{} processes attached, {} were refused\n", attached, refused);
    EXPECT_TRUE(attaching->ends_well());
    EXPECT_TRUE(punching->ends_well());
    EXPECT_TRUE(scribbling->ends_well());
}

TEST_F(HostilePeer, holds_up_no_call_for_two_seconds_by_what_it_leaves) {
    test::Peer attacked{[this](test::Peer& peer) { be_attacked(peer); }};
    attacked.wait();
    const auto claiming = enemy(&Enemy::claim_everything, 3);
    claiming->wait();
    claiming->tell();
    EXPECT_TRUE(claiming->ends_well());
    attacked.tell();
    EXPECT_TRUE(attacked.ends_well());
}

}  // namespace
}  // namespace harena::torture
