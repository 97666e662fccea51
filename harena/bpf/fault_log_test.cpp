// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <latch>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "harena/bpf/fault.hpp"

namespace harena::bpf {

namespace {

std::vector<Fault> faults(std::uint64_t first, std::uint64_t count) {
    std::vector<Fault> made;
    for (std::uint64_t i = 0; i < count; ++i)
        made.push_back({.access = Fault::Access::read,
                        .address = UserAddress{first + i},
                        .function = "main",
                        .insn = 0,
                        .place = "here"});
    return made;
}

void expect_last(const FaultLog& log, std::uint64_t first, std::uint64_t count) {
    const auto last = log.last();
    ASSERT_EQ(last.size(), count);
    for (std::uint64_t i = 0; i < count; ++i) EXPECT_EQ(last[i].address.value(), first + i);
}

TEST(FaultLog, is_empty_at_first) {
    const FaultLog log;
    EXPECT_EQ(log.count(), 0U);
    expect_last(log, 0, 0);
}

TEST(FaultLog, keeps_the_last_ones_oldest_first_and_counts_all) {
    // In batches of every size, so that the ring turns at every place.
    for (std::uint64_t batch = 1; batch <= FaultLog::k_kept; ++batch) {
        FaultLog log;
        std::uint64_t added = 0;
        while (added < 3 * FaultLog::k_kept) {
            log.add(batch, faults(added, batch));
            added += batch;
            const std::uint64_t kept = std::min<std::uint64_t>(added, FaultLog::k_kept);
            EXPECT_EQ(log.count(), added);
            expect_last(log, added - kept, kept);
        }
    }
}

TEST(FaultLog, counts_what_was_not_kept) {
    FaultLog log;
    log.add(1000, faults(0, FaultLog::k_kept));
    EXPECT_EQ(log.count(), 1000U);
}

TEST(FaultLog, takes_from_many_threads) {
    constexpr std::uint64_t k_threads = 4;
    constexpr std::uint64_t k_rounds = 500;
    FaultLog log;
    std::latch together{k_threads};
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < k_threads; ++i)
        threads.emplace_back([&, i] {
            together.arrive_and_wait();
            for (std::uint64_t round = 0; round < k_rounds; ++round) {
                log.add(1, faults(i, 1));
                EXPECT_LE(log.last().size(), FaultLog::k_kept);
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(log.count(), k_threads * k_rounds);
    EXPECT_EQ(log.last().size(), FaultLog::k_kept);
}

TEST(FaultLog, a_fault_reads_as_in_linux) {
    Fault fault{.access = Fault::Access::write,
                .address = UserAddress{0x100000001000},
                .function = "main",
                .insn = 3,
                .place = "program 'main' instruction 3 (x.bpf.c:7: *p = 1)"};
    EXPECT_EQ(to_text(fault),
              "ERROR: Arena WRITE access at unmapped address 0x100000001000\n  program 'main' instruction 3 "
              "(x.bpf.c:7: *p = 1)");
    fault.access = Fault::Access::read;
    EXPECT_EQ(to_text(fault).substr(0, 24), "ERROR: Arena READ access");
}

}  // namespace

}  // namespace harena::bpf
