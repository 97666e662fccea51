// SPDX-License-Identifier: Apache-2.0
// Limits of the process, and systems without memfd_secret: in children that have the one or the other for real.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstddef>
#include <thread>

#include "harena/base/os/fault_injection.hpp"
#include "harena/secret/secret_pages.hpp"
#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::holds_in_child;
using test::refused;

constexpr std::uint64_t k_unlimited = RLIM_INFINITY;

class SecretLimits : public test::SecretTest {
protected:
    /// Secrets of `bytes` bytes until there is an error, which is returned.
    static Error fill(SecretHeap& heap, std::size_t bytes, std::vector<void*>& live) {
        while (true) {
            auto secret = heap.alloc(bytes);
            if (!secret) return secret.error();
            live.push_back(*secret);
        }
    }
    static void expect_memlock(const Error& error, std::string_view value) {
        EXPECT_EQ(error.code(), EAGAIN) << error.message();
        EXPECT_NE(error.message().find("RLIMIT_MEMLOCK is " + std::string{value}), std::string::npos)
            << error.message();
        EXPECT_NE(error.message().find("ulimit -l"), std::string::npos) << error.message();
    }
};

TEST_F(SecretLimits, memlock_of_64_KiB_is_used_to_the_last_page_and_named) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 64 * k_kib));
        const auto heap = SecretHeap::create().value();
        std::vector<void*> live;
        expect_memlock(fill(*heap, 32, live), "65536 bytes");
        EXPECT_EQ(live.size(), 16U * 85);
        EXPECT_EQ(heap->statistics().locked_bytes, 64 * k_kib);
        EXPECT_TRUE(refused(heap->alloc(1, {.guarded = true}), EAGAIN, "RLIMIT_MEMLOCK"));
        EXPECT_TRUE(refused(SecretPages::create(PageCount{1}), EAGAIN, "RLIMIT_MEMLOCK"));
        for (void* const one : live) (void)heap->free(one);
        EXPECT_TRUE(heap->alloc(2000)) << "pages of other sizes serve";
    }));
}

TEST_F(SecretLimits, memlock_of_8_MiB_is_used_up) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 8 * k_mib));
        const auto heap = SecretHeap::create().value();
        std::vector<void*> live;
        expect_memlock(fill(*heap, 32, live), "8388608 bytes");
        EXPECT_GE(heap->statistics().locked_bytes, 8 * k_mib - 16 * k_kib);
        EXPECT_GE(live.size(), (8 * k_mib - 16 * k_kib) / k_page_size * 85);
    }));
}

TEST_F(SecretLimits, memlock_unlimited_is_no_limit) {
    EXPECT_TRUE(holds_in_child([] {
        if (!test::set_limit(RLIMIT_MEMLOCK, k_unlimited)) return;  // an ordinary user's hard limit
        ASSERT_TRUE(test::drop_capabilities());
        const auto heap = SecretHeap::create().value();
        for (int i = 0; i < 300'000; ++i) ASSERT_TRUE(heap->alloc(32));
        EXPECT_GT(heap->statistics().locked_bytes, 8 * k_mib);
    }));
}

TEST_F(SecretLimits, memlock_of_0_is_named) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 0));
        const auto heap = SecretHeap::create().value();
        EXPECT_TRUE(refused(heap->alloc(1), EAGAIN, "RLIMIT_MEMLOCK is 0 bytes"));
        EXPECT_EQ(heap->statistics().blocks, 0U);
        EXPECT_EQ(heap->statistics().locked_bytes, 0U);
    }));
}

TEST_F(SecretLimits, slots_that_other_threads_keep_are_had_when_nothing_else_is_left) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 16 * k_kib));
        const auto heap = SecretHeap::create().value();
        std::atomic<int> step{0};
        std::thread other{[&] {
            for (const std::size_t bytes : {16U, 32U, 48U, 100U}) (void)heap->free(heap->alloc(bytes).value());
            step = 1;
            step.notify_all();
            step.wait(1);
        }};
        step.wait(0);
        EXPECT_TRUE(heap->alloc(2000)) << "all four pages are slabs with slots in the other's cache";
        EXPECT_TRUE(heap->alloc(4000));
        step = 2;
        step.notify_all();
        other.join();
    }));
}

TEST_F(SecretLimits, open_windows_count_and_closed_ones_do_not) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 64 * k_kib));
        std::vector<std::unique_ptr<SecretPages>> many;
        for (int i = 0; i < 8; ++i) many.push_back(SecretPages::create(PageCount{8}).value());
        const SecretWindow first = many[0]->open().value();
        const SecretWindow second = many[1]->open().value();
        EXPECT_TRUE(refused(many[2]->open(), EAGAIN, "RLIMIT_MEMLOCK is 65536 bytes"));
        EXPECT_TRUE(many[1]->open()) << "it is mapped already";
    }));
}

TEST_F(SecretLimits, address_space_is_named_and_a_smaller_capacity_does) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers need the address space themselves";
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(test::set_limit(RLIMIT_AS, 512 * k_mib));
        EXPECT_TRUE(refused(SecretHeap::create(), ENOMEM, "RLIMIT_AS"));
        const auto heap = SecretHeap::create({.capacity = 16 * k_mib}).value();
        EXPECT_TRUE(heap->alloc(32));
    }));
}

TEST_F(SecretLimits, mappings_of_the_process_are_named_and_nothing_is_lost) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers need mappings of their own";
    EXPECT_TRUE(holds_in_child([] {
        const auto heap = SecretHeap::create().value();
        void* const before = heap->alloc(32, {.guarded = true}).value();
        const SecretStatistics had = heap->statistics();
        // Every second page of a large reservation: a mapping each.
        const std::uint64_t bytes = 140'000 * k_page_size;
        auto* const filler = static_cast<std::byte*>(
            ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        ASSERT_NE(filler, MAP_FAILED);
        std::uint64_t used = k_page_size;
        while (used < bytes && ::mprotect(filler + used, k_page_size, PROT_READ) == 0) used += 2 * k_page_size;
        if (used >= bytes) return;  // vm.max_map_count is larger than that here
        EXPECT_TRUE(refused(heap->alloc(32, {.guarded = true}), ENOMEM, "vm.max_map_count"));
        EXPECT_TRUE(refused(heap->alloc(1), ENOMEM, "vm.max_map_count"));
        (void)heap->free(before);
        ::munmap(filler, bytes);
        EXPECT_TRUE(heap->alloc(32, {.guarded = true}));
        EXPECT_EQ(heap->statistics().vmas, had.vmas);
        EXPECT_EQ(heap->statistics().locked_bytes, had.locked_bytes);
    }));
}

TEST_F(SecretLimits, processes_that_lock_all_memory_are_served_or_told_why_not) {
    EXPECT_TRUE(holds_in_child([] {
        if (test::k_sanitizer || ::mlockall(MCL_FUTURE) != 0) return;
        const auto heap = SecretHeap::create({.capacity = 8 * k_mib});
        if (heap) {
            EXPECT_TRUE((*heap)->alloc(32));
        }
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 64 * k_kib));
        EXPECT_TRUE(refused(SecretHeap::create({.capacity = 8 * k_mib}), ENOMEM, "RLIMIT_MEMLOCK"));
    }));
}

/// From now on, memfd_secret fails with `error` in this process.
bool refuse_memfd_secret(int error) {
    constexpr std::uint32_t k_memfd_secret = 447;
    std::array filter{
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k_memfd_secret, 0, 1),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error)),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{.len = filter.size(), .filter = filter.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

void expect_no_memfd_secret(int error, std::string_view advice) {
    EXPECT_TRUE(refused(SecretHeap::create(), error, "memfd_secret"));
    EXPECT_TRUE(refused(SecretHeap::create(), error, advice));
    EXPECT_TRUE(refused(SecretHeap::create(), error, "allow mlock"));
    EXPECT_TRUE(refused(SecretPages::create(PageCount{1}), error, advice));
    const auto heap = SecretHeap::create({.allow_mlock = true}).value();
    EXPECT_EQ(heap->statistics().backend, SecretBackend::mlock);
    std::vector<void*> live;
    for (int i = 0; i < 1000; ++i) live.push_back(heap->alloc(100).value());
    live.push_back(heap->alloc(5000).value());
    live.push_back(heap->alloc(10, {.guarded = true}).value());
    EXPECT_EQ(test::count_mappings("secretmem"), 0U);
    for (void* const one : live) (void)heap->free(one);
    (void)heap->trim();
    EXPECT_EQ(heap->statistics().locked_bytes, 0U);
    const auto pages = SecretPages::create(PageCount{2}, {.allow_mlock = true}).value();
    EXPECT_EQ(pages->backend(), SecretBackend::mlock);
    std::byte* at = nullptr;
    {
        const SecretWindow window = pages->open().value();
        at = window.data();
        at[5000] = std::byte{7};
    }
    EXPECT_FALSE(test::readable(at));
    EXPECT_EQ(pages->open().value().data()[5000], std::byte{7});
}

TEST(SecretWithoutMemfdSecret, by_a_sandbox_is_an_error_or_mlock_where_that_is_allowed) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(refuse_memfd_secret(EPERM));
        expect_no_memfd_secret(EPERM, "seccomp");
    }));
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(refuse_memfd_secret(ENOSYS));
        expect_no_memfd_secret(ENOSYS, "secretmem.enable=1");
    }));
}

TEST(SecretWithoutMemfdSecret, by_the_kernel_is_an_error_or_mlock_where_that_is_allowed) {
    for (const int error : {ENOSYS, EPERM, EACCES}) {
        FailCall injector{Call::memfd_secret, error, 0, FailCall::Repeat::always};
        const ScopedFaultInjector scope{injector};
        expect_no_memfd_secret(error, error == ENOSYS ? "secretmem.enable=1" : "seccomp");
    }
}

TEST(SecretWithoutMemfdSecret, for_another_reason_is_never_answered_by_mlock) {
    for (const int error : {EMFILE, ENFILE, ENOMEM}) {
        FailCall injector{Call::memfd_secret, error, 0, FailCall::Repeat::always};
        const ScopedFaultInjector scope{injector};
        EXPECT_TRUE(refused(SecretHeap::create({.allow_mlock = true}), error, "memfd_secret"));
        EXPECT_TRUE(refused(SecretPages::create(PageCount{1}, {.allow_mlock = true}), error, "memfd_secret"));
    }
}

TEST_F(SecretLimits, sandbox_that_comes_later_is_an_error_and_no_fallback) {
    EXPECT_TRUE(holds_in_child([] {
        const auto heap = SecretHeap::create({.allow_mlock = true}).value();
        ASSERT_TRUE(refuse_memfd_secret(EPERM));
        EXPECT_TRUE(refused(heap->alloc(32), EPERM, "memfd_secret"));
        EXPECT_EQ(heap->statistics().locked_bytes, 0U);
    }));
}

TEST(SecretOnMlock, limit_is_named_and_memory_is_kept_from_children) {
    if (test::k_sanitizer) GTEST_SKIP() << "sanitizers let mlock do nothing";
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(refuse_memfd_secret(ENOSYS));
        const auto heap = SecretHeap::create({.allow_mlock = true}).value();
        void* const secret = heap->alloc(32).value();
        EXPECT_TRUE(holds_in_child([&] { EXPECT_FALSE(test::readable(secret)); }));
        EXPECT_TRUE(test::readable(secret));
        ASSERT_TRUE(test::drop_capabilities());
        ASSERT_TRUE(test::set_limit(RLIMIT_MEMLOCK, 512 * k_kib));
        Result<void*> last = secret;
        while (last) last = heap->alloc(2000);
        EXPECT_TRUE(refused(last, EAGAIN, "RLIMIT_MEMLOCK is 524288 bytes"));
        EXPECT_EQ(heap->statistics().locked_bytes, 512 * k_kib);
    }));
}

}  // namespace
}  // namespace harena
