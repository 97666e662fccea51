// SPDX-License-Identifier: Apache-2.0
//
// Touches of absent pages: by the host with plain pointers, by a program through nofault, by the kernel.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/arena/test_support.hpp"
#include "harena/base/fault_context_x86_64.hpp"
#include "harena/base/os/fault_injection.hpp"
#include "harena/exec/exception_table.hpp"

namespace harena {
namespace {

using nofault::Access;
using nofault::Atomic;
using test::byte_at;
using test::k_free_address;
using test::make_arena;
using test::number;
using test::page_at;
using test::usage;

constexpr std::array k_atomics{Atomic::add,       Atomic::or_,       Atomic::and_,
                               Atomic::xor_,      Atomic::fetch_add, Atomic::fetch_or,
                               Atomic::fetch_and, Atomic::fetch_xor, Atomic::exchange};

// --- the host
// ---------------------------------------------------------------------------------------------------------

TEST(ArenaHostAccess, a_touch_of_an_absent_page_gives_a_zeroed_page_that_counts_as_allocated) {
    const auto arena = make_arena(4);
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(byte_at(page_at(*arena, 2) + 100), 0) << "a read";
    byte_at(page_at(*arena, 0) + 4095) = 5;  // a write
    EXPECT_EQ(usage(*arena), "2 0");
    EXPECT_EQ(test::host_faults(*arena), 2U);
    EXPECT_TRUE(test::is_zero(page_at(*arena, 2), k_page_size));
    EXPECT_EQ(arena->alloc_pages(PageCount{1}).value(), page_at(*arena, 1));
    EXPECT_EQ(arena->alloc_pages(PageCount{1}).value(), page_at(*arena, 3));
    EXPECT_FALSE(arena->alloc_pages(PageCount{1}));
}

TEST(ArenaHostAccess, an_access_across_two_absent_pages_makes_both) {
    const auto arena = make_arena(4);
    ASSERT_NE(arena, nullptr);
    const std::uint64_t value = 0x0123'4567'89ab'cdef;
    std::memcpy(page_at(*arena, 1) - 3, &value, sizeof value);
    EXPECT_EQ(usage(*arena), "2 0");
    std::uint64_t back = 0;
    std::memcpy(&back, page_at(*arena, 1) - 3, sizeof back);
    EXPECT_EQ(back, value);
}

TEST(ArenaHostAccess, errno_survives_a_touch) {
    const auto arena = make_arena(1);
    ASSERT_NE(arena, nullptr);
    errno = EXDEV;
    byte_at(arena->data()) = 1;
    EXPECT_EQ(errno, EXDEV);
}

TEST(ArenaHostAccess, a_touch_of_a_reserved_page_gives_a_zeroed_page_that_stays_reserved) {
    const auto arena = make_arena(2);
    ASSERT_NE(arena, nullptr);
    ASSERT_TRUE(arena->reserve_pages(arena->data(), PageCount{1}));
    EXPECT_EQ(byte_at(arena->data()), 0);
    byte_at(arena->data()) = 3;
    EXPECT_EQ(usage(*arena), "0 1");
    EXPECT_EQ(arena->alloc_pages(PageCount{1}).value(), page_at(*arena, 1));
    // Freed and allocated again, it does not show what was written while it was reserved.
    ASSERT_TRUE(arena->free_pages(arena->data(), PageCount{1}));
    EXPECT_EQ(usage(*arena), "1 0");
    EXPECT_EQ(arena->alloc_pages(PageCount{1}).value(), arena->data());
    EXPECT_EQ(byte_at(arena->data()), 0);
}

TEST(ArenaHostAccess, memory_that_the_host_gave_back_to_the_kernel_comes_back_zeroed) {
    const auto arena = make_arena(2);
    ASSERT_NE(arena, nullptr);
    void* const page = arena->alloc_pages(PageCount{1}).value();
    byte_at(page) = 9;
    ASSERT_EQ(::madvise(page, k_page_size, MADV_REMOVE), 0);
    EXPECT_EQ(byte_at(page), 0);
    byte_at(page) = 9;
    EXPECT_EQ(byte_at(page), 9);
    EXPECT_EQ(usage(*arena), "1 0");
}

TEST(ArenaHostAccess, system_calls_given_absent_pages_fail_with_EFAULT) {
    const auto arena = make_arena(4);
    ASSERT_NE(arena, nullptr);
    const int zero = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
    ASSERT_GE(zero, 0);
    EXPECT_EQ(::read(zero, arena->data(), 10), -1);
    EXPECT_EQ(errno, EFAULT);
    EXPECT_EQ(usage(*arena), "0 0");
    ASSERT_TRUE(arena->populate(arena->data(), 2 * k_page_size));
    EXPECT_EQ(::read(zero, arena->data(), 2 * k_page_size), static_cast<ssize_t>(2 * k_page_size));
    EXPECT_EQ(::read(zero, page_at(*arena, 1) + 100, 2 * k_page_size), static_cast<ssize_t>(k_page_size - 100))
        << "a short count where the populated pages end";
    ::close(zero);
}

TEST(ArenaHostAccess, a_thread_that_blocks_the_signals_populates_first) {
    const auto arena = make_arena(2);
    ASSERT_NE(arena, nullptr);
    std::thread{[&] {
        sigset_t all;
        sigfillset(&all);
        ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &all, nullptr), 0);
        ASSERT_TRUE(arena->populate(arena->data(), 2 * k_page_size));
        byte_at(arena->data()) = 1;
        byte_at(page_at(*arena, 1)) = 1;
        const auto prepared = fault_handler::prepare_thread();
        ASSERT_FALSE(prepared);
        EXPECT_EQ(prepared.error().code(), EPERM);
        EXPECT_NE(prepared.error().message().find("blocks SIGBUS"), std::string::npos) << prepared.error().message();
    }}.join();
}

TEST(ArenaHostAccess, a_prepared_thread_has_an_alternate_stack_and_gives_it_back) {
    std::thread{[] {
        for (int turn = 0; turn < 2; ++turn) ASSERT_TRUE(fault_handler::prepare_thread());
        stack_t stack{};
        ASSERT_EQ(::sigaltstack(nullptr, &stack), 0);
        EXPECT_EQ(stack.ss_flags & SS_DISABLE, 0);
        EXPECT_GE(stack.ss_size, static_cast<std::size_t>(MINSIGSTKSZ));
    }}.join();
}

TEST(ArenaHostAccess, prepare_thread_keeps_an_alternate_stack_that_is_there) {
    std::thread{[] {
        std::vector<char> memory(128 * 1024);
        stack_t own{};
        own.ss_sp = memory.data();
        own.ss_size = memory.size();
        stack_t before{};
        ASSERT_EQ(::sigaltstack(&own, &before), 0);
        ASSERT_TRUE(fault_handler::prepare_thread());
        stack_t now{};
        ASSERT_EQ(::sigaltstack(nullptr, &now), 0);
        EXPECT_EQ(now.ss_sp, own.ss_sp);
        ASSERT_EQ(::sigaltstack(&before, nullptr), 0);
    }}.join();
}

class ArenaHostDeath : public test::FreshProcess {
protected:
    // Sanitizers have a handler of their own, which would print a report: they are not what is tested here.
    static void default_signals() {
        (void)std::signal(SIGSEGV, SIG_DFL);
        (void)std::signal(SIGBUS, SIG_DFL);
    }
    template <typename Body>
    static void expect_death_by(int signal, Body&& body) {
        EXPECT_EXIT((default_signals(), test::run_as_child(body)), ::testing::KilledBySignal(signal), "");
    }
};

TEST_F(ArenaHostDeath, segv_on_fault_is_SIGSEGV) {
    expect_death_by(SIGSEGV, [] {
        const auto arena = make_arena({.pages = PageCount{2}, .segv_on_fault = true});
        void* const page = arena->alloc_pages(PageCount{1}).value();
        byte_at(page) = 1;  // allocated: no fault
        byte_at(page_at(*arena, 1)) = 1;
    });
}

TEST_F(ArenaHostDeath, the_window_outside_the_arena_is_SIGSEGV_on_both_sides_and_in_the_guards) {
    constexpr std::uint64_t k_start = k_free_address + k_gib;
    for (const std::uint64_t address :
         {k_start - 1, k_start + k_page_size, k_free_address, k_free_address + 4 * k_gib - 1, k_free_address - 32768,
          k_free_address + 4 * k_gib + 32773})
        expect_death_by(SIGSEGV, [address] {
            const auto arena = make_arena({.pages = PageCount{1}, .user_vm_start = UserAddress{k_start}});
            byte_at(arena->data()) = 1;
            (void)static_cast<unsigned char>(byte_at(reinterpret_cast<void*>(address)));
        });
}

TEST_F(ArenaHostDeath, execution_from_an_arena_is_refused) {
    for (const bool present : {false, true})
        expect_death_by(SIGSEGV, [present] {
            const auto arena = make_arena(1);
            if (present) byte_at(arena->data()) = 0xc3;  // ret
            reinterpret_cast<void (*)()>(number(arena->data()))();
        });
}

TEST_F(ArenaHostDeath, lack_of_memory_is_SIGSEGV_also_if_there_is_some_a_moment_later) {
    expect_death_by(SIGSEGV, [] {
        const auto arena = make_arena(1);
        os::FailCall no_memory{os::Call::uffd_zeropage, ENOMEM};  // once
        const os::ScopedFaultInjector scope{no_memory};
        byte_at(arena->data()) = 1;
    });
}

TEST_F(ArenaHostDeath, a_touch_that_never_succeeds_is_given_up_with_SIGSEGV) {
    expect_death_by(SIGSEGV, [] {
        const auto arena = make_arena(1);
        os::FailCall lies{os::Call::uffd_zeropage, EEXIST, 0, os::FailCall::Repeat::always};
        const os::ScopedFaultInjector scope{lies};
        byte_at(arena->data()) = 1;
    });
}

TEST_F(ArenaHostDeath, a_touch_by_a_thread_that_blocks_SIGBUS_is_the_kernels_SIGBUS) {
    expect_death_by(SIGBUS, [] {
        const auto arena = make_arena(1);
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGBUS);
        ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &one, nullptr), 0);
        byte_at(arena->data()) = 1;
    });
}

TEST_F(ArenaHostDeath, a_refused_touch_by_a_thread_that_blocks_SIGSEGV_is_SIGSEGV_all_the_same) {
    expect_death_by(SIGSEGV, [] {
        const auto arena = make_arena({.pages = PageCount{1}, .segv_on_fault = true});
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGSEGV);
        ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &one, nullptr), 0);
        byte_at(arena->data()) = 1;
    });
}

// --- a program
// --------------------------------------------------------------------------------------------------------

void expect_fault(const Access& access) {
    EXPECT_EQ(access.faulted, 1U);
    EXPECT_EQ(access.value, 0U);
}

/// Pages 0, 2, 4 are there, full of 0xff; 1, 3, 5 are absent. Nothing but the host may change that.
class ArenaProgramAccess : public ::testing::Test {
protected:
    static constexpr std::uint64_t k_start = k_free_address + k_gib;

    void SetUp() override {
        arena_ = make_arena({.pages = PageCount{6}, .user_vm_start = UserAddress{k_start}});
        ASSERT_NE(arena_, nullptr);
        for (const std::uint64_t page : {0U, 2U, 4U}) {
            ASSERT_TRUE(arena_->alloc_pages(PageCount{1}, {.address = page_at(*arena_, page)}));
            std::memset(page_at(*arena_, page), 0xff, k_page_size);
        }
    }
    void TearDown() override {
        ASSERT_NE(arena_, nullptr);
        EXPECT_EQ(usage(*arena_), "3 0") << "a program's access never makes a page";
        EXPECT_EQ(test::host_faults(*arena_), 0U);
        for (const std::uint64_t page : {0U, 2U, 4U})
            for (std::uint64_t i = 0; i < k_page_size; ++i)
                ASSERT_EQ(page_at(*arena_, page)[i], std::byte{0xff}) << "page " << page << " byte " << i;
    }
    static std::uintptr_t at(std::uint64_t offset) { return k_start + offset; }

    /// All kinds of access at `address`, none of which may succeed.
    static void expect_all_fault(std::uintptr_t address, std::initializer_list<unsigned> sizes) {
        for (const unsigned size : sizes) {
            SCOPED_TRACE(fmt::format("{} bytes at {:#x}", size, address));
            expect_fault(nofault::load(address, size));
            expect_fault(nofault::store(address, size, 0));
            if (size < 4) continue;
            for (const Atomic operation : k_atomics) expect_fault(nofault::atomic(operation, address, size, 0));
            expect_fault(nofault::compare_exchange(address, size, ~std::uint64_t{0}, 0));
            expect_fault(nofault::compare_exchange(address, size, 0, 1));
        }
    }

    std::shared_ptr<ProcessArena> arena_;
};

TEST_F(ArenaProgramAccess, to_an_absent_page_reads_zero_and_drops_writes) {
    for (const std::uint64_t page : {1U, 3U, 5U})
        for (const std::uint64_t offset : {0U, 1U, 2044U, 4088U})
            expect_all_fault(at(page * k_page_size + offset), {1, 2, 4, 8});
}

TEST_F(ArenaProgramAccess, to_a_present_page_does_not_fault) {
    for (const unsigned size : {1U, 2U, 4U, 8U})
        for (const std::uint64_t offset :
             {std::uint64_t{0}, k_page_size - size, 2 * k_page_size, 3 * k_page_size - size}) {
            const Access access = nofault::load(at(offset), size);
            EXPECT_EQ(access.faulted, 0U);
            EXPECT_EQ(access.value, ~std::uint64_t{0} >> (64 - 8 * size));
        }
}

TEST_F(ArenaProgramAccess, that_straddles_into_an_absent_page_is_wholly_zero_or_wholly_dropped) {
    for (const unsigned size : {2U, 4U, 8U})
        for (unsigned behind = 1; behind < size; ++behind) {
            expect_all_fault(at(1 * k_page_size - behind), {size});  // present, then absent
            expect_all_fault(at(2 * k_page_size - behind), {size});  // absent, then present
            expect_all_fault(at(6 * k_page_size - behind), {size});  // absent, then outside
        }
}

TEST_F(ArenaProgramAccess, outside_the_arena_in_its_window_faults) {
    for (const std::uintptr_t address :
         {k_start - 8, k_start + 6 * k_page_size, k_free_address, k_free_address + 4 * k_gib - 8})
        expect_all_fault(address, {1, 2, 4, 8});
    for (unsigned before = 1; before < 8; ++before) expect_all_fault(k_start - before, {8});
}

TEST_F(ArenaProgramAccess, anywhere_in_the_guards_faults) {
    // base + (u32)pointer + s16 offset, at both ends.
    expect_all_fault(k_free_address - 32768, {1, 2, 4, 8});
    expect_all_fault(k_free_address - 1, {1, 2, 4, 8});
    expect_all_fault(k_free_address + 0xffff'ffff + 32767, {1, 2, 4, 8});
    expect_all_fault(k_free_address + 0xffff'ffff, {2, 4, 8});
}

TEST_F(ArenaProgramAccess, to_a_reserved_page_faults) {
    ASSERT_TRUE(arena_->reserve_pages(page_at(*arena_, 1), PageCount{1}));
    expect_all_fault(at(k_page_size), {1, 2, 4, 8});
    arena_->kfunc_free_pages(number(page_at(*arena_, 1)), 1);
}

TEST_F(ArenaProgramAccess, to_a_freed_page_faults) {
    ASSERT_EQ(arena_->kfunc_alloc_pages(at(k_page_size), 1, -1, 0), at(k_page_size));
    EXPECT_EQ(nofault::store(at(k_page_size), 8, 5).faulted, 0U);
    arena_->kfunc_free_pages(at(k_page_size), 1);
    expect_all_fault(at(k_page_size), {1, 2, 4, 8});
}

TEST_F(ArenaProgramAccess, keeps_errno) {
    errno = EXDEV;
    expect_fault(nofault::load(at(k_page_size), 8));
    EXPECT_EQ(errno, EXDEV);
}

TEST_F(ArenaProgramAccess, in_a_segv_on_fault_arena_is_no_different) {
    const auto other = make_arena({.pages = PageCount{1}, .segv_on_fault = true});
    ASSERT_NE(other, nullptr);
    expect_all_fault(number(other->data()), {1, 2, 4, 8});
}

TEST_F(ArenaProgramAccess, of_many_threads_faults_in_each_of_them) {
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([] {
            ASSERT_TRUE(fault_handler::prepare_thread());
            for (int turn = 0; turn < 200; ++turn) {
                expect_fault(nofault::load(at(k_page_size), 8));
                expect_fault(nofault::store(at(3 * k_page_size), 4, 1));
                EXPECT_EQ(nofault::load(at(0), 1).value, 0xffU);
            }
        });
    for (std::thread& thread : threads) thread.join();
}

TEST(ArenaProgramFaults, are_counted_as_the_engine_reports_them) {
    const auto arena = make_arena(1);
    ASSERT_NE(arena, nullptr);
    arena->count_program_fault();
    arena->count_program_fault();
    EXPECT_EQ(arena->statistics().value().program_faults, 2U);
    EXPECT_EQ(arena->statistics().value().host_faults, 0U);
}

// --- the decision itself
// ----------------------------------------------------------------------------------------------

/// The handler's question, for a made-up fault of a program: text that may fault.
class FaultDecision : public ::testing::Test {
protected:
    void SetUp() override {
        const auto added = ExceptionTable::instance().add({.begin = 0x1000, .end = 0x1010, .fixup = 0x2000});
        ASSERT_TRUE(added);
        handle_ = *added;
    }
    void TearDown() override { ExceptionTable::instance().remove(handle_); }

    /// Where the thread goes on; 0 if the signal is not ours.
    static std::uintptr_t decided(int signal, int code, std::uintptr_t instruction) {
        siginfo_t info{};
        info.si_signo = signal;
        info.si_code = code;
        ucontext_t context{};
        fault_context::set_instruction(&context, instruction);
        return fault_handler::handle(signal, &info, &context) ? fault_context::instruction(&context) : 0;
    }

    ExceptionTable::Handle handle_{};
};

TEST_F(FaultDecision, faults_of_registered_text_go_on_at_its_fixup) {
    EXPECT_EQ(decided(SIGSEGV, SEGV_MAPERR, 0x1000), 0x2000U);
    EXPECT_EQ(decided(SIGSEGV, SEGV_ACCERR, 0x100f), 0x2000U);
    EXPECT_EQ(decided(SIGBUS, BUS_ADRERR, 0x1004), 0x2000U);
    EXPECT_EQ(decided(SIGBUS, BUS_ADRALN, 0x1004), 0x2000U) << "where the kernel forbids split locks";
}

TEST_F(FaultDecision, signals_that_are_no_faults_and_faults_of_other_text_are_the_hosts) {
    EXPECT_EQ(decided(SIGSEGV, SI_USER, 0x1000), 0U);
    EXPECT_EQ(decided(SIGBUS, SI_QUEUE, 0x1000), 0U);
    EXPECT_EQ(decided(SIGSEGV, SI_TKILL, 0x1000), 0U);
    EXPECT_EQ(decided(SIGBUS, BUS_MCEERR_AR, 0x1000), 0U) << "a memory error";
    EXPECT_EQ(decided(SIGILL, ILL_ILLOPC, 0x1000), 0U);
    EXPECT_EQ(decided(SIGSEGV, SEGV_MAPERR, 0x1010), 0U);
    EXPECT_EQ(decided(SIGBUS, BUS_ADRERR, 0xfff), 0U);
    EXPECT_EQ(decided(SIGBUS, BUS_ADRALN, 0xfff), 0U);
}

}  // namespace
}  // namespace harena
