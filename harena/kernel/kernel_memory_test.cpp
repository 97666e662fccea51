// SPDX-License-Identifier: Apache-2.0
// The memory of an object: after a load that failed, in children that are forked at any time, and when there is none.
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/test_programs.hpp"
#include "harena/kernel/child_process_test.hpp"
#include "harena/kernel/test_support.hpp"

namespace {
/// How many allocations with `new` of this thread are served before one fails; -1: no one fails.
thread_local std::int64_t allocations_until_failure = -1;
}  // namespace

// Not inlined: GCC 12 would see `free` of what `new` gave.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    void* const memory = allocations_until_failure == 0 ? nullptr : std::malloc(bytes);
    if (allocations_until_failure >= 0) --allocations_until_failure;
    if (memory == nullptr) throw std::bad_alloc{};
    return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace harena::kernel::test {
namespace {

using KernelMemory = KernelTest;
using bpf::Object;

TEST_F(KernelMemory, a_load_that_fails_at_any_call_leaves_the_globals_as_they_were) {
    using os::Call;
    for (const Call call : {Call::bpf_map_create, Call::bpf_map_element, Call::bpf_map_freeze, Call::bpf_btf_load,
                            Call::bpf_program_load, Call::bpf_program_run, Call::mmap, Call::mremap, Call::madvise}) {
        bool done = false;
        for (std::uint64_t skip = 0; skip < 100 && !done; ++skip) {
            auto object = Object::open(KernelTest::object("engine"));
            ASSERT_TRUE(object);
            auto* const factor = object->global<std::uint32_t>("factor").value();
            auto* const in_data = object->global<std::uint32_t>("in_data").value();
            auto* const in_bss = object->global<std::uint64_t>("in_bss").value();
            auto* const points = object->global<std::uint64_t>("points").value();
            *in_data = 5;
            *in_bss = 77;
            const std::uint64_t pointed = *points;
            {
                os::FailCall injector{call, ENOMEM, skip, os::FailCall::Repeat::always};
                const os::ScopedFaultInjector scoped{injector};
                done = object->load(engine()).has_value();
            }
            if (done) break;
            EXPECT_EQ(*points, pointed) << static_cast<int>(call) << ", " << skip;
            EXPECT_EQ(*in_bss, 77U);
            *factor = 4;  // can be set until the object is loaded
            *in_data = 6;
            const auto again = object->load(engine());
            ASSERT_TRUE(again) << again.error().message();
            EXPECT_EQ(object->program("compute").value()->run()->return_value, 6U * 4 + 7);
            EXPECT_EQ(object->global<std::uint32_t>("in_data").value(), in_data);
        }
        EXPECT_TRUE(done) << static_cast<int>(call);
    }
}

/// Forks at each system call of a kind, and counts children that have a map's memory.
class ForkingInjector final : public os::FaultInjector {
public:
    int on_call(os::Call call) noexcept override {
        const bool wanted =
            call == os::Call::mmap || call == os::Call::madvise || call == os::Call::munmap || call == os::Call::mremap;
        if (!wanted || forking_) return 0;
        forking_ = true;
        ++forks_;
        inherited_ += forked(&has_no_map) == Child::right ? 0 : 1;
        forking_ = false;
        return 0;
    }
    [[nodiscard]] int forks() const noexcept { return forks_; }
    [[nodiscard]] int inherited() const noexcept { return inherited_; }

private:
    static Child has_no_map() {
        std::ifstream maps{"/proc/self/maps"};
        for (std::string line; std::getline(maps, line);)
            if (line.find("bpf-map") != std::string::npos || line.find("bpf_map") != std::string::npos)
                return Child::wrong;
        return Child::right;
    }

    bool forking_ = false;
    int forks_ = 0;
    int inherited_ = 0;
};

TEST_F(KernelMemory, a_child_forked_at_any_time_has_no_memory_of_maps) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    ForkingInjector injector;
    const os::ScopedFaultInjector scoped{injector};
    for (const std::uint64_t address : {std::uint64_t{0}, bpf::test::arena_address()}) {
        const Object object =
            loaded("engine", {.arena_address = address, .arena_pages = std::nullopt, .also_load = {}});
        EXPECT_TRUE(object.program("follow"));
    }
    EXPECT_GT(injector.forks(), 10);
    EXPECT_EQ(injector.inherited(), 0);
}

/// Calls `action` with the first allocation failing, then with the second, and so on, until none does.
template <typename Action>
void with_each_allocation_failing(Action&& action) {
    constexpr std::int64_t k_enough = 100'000;
    for (std::int64_t number = 0; number < k_enough; ++number) {
        allocations_until_failure = number;
        action();
        if (std::exchange(allocations_until_failure, -1) >= 0) return;
    }
    FAIL() << "there is no end to it";
}

TEST_F(KernelMemory, an_allocation_that_fails_anywhere_in_loading_is_ENOMEM) {
    int failed = 0;
    with_each_allocation_failing([&] {
        const std::int64_t number = std::exchange(allocations_until_failure, -1);
        auto object = Object::open(KernelTest::object("engine"));
        allocations_until_failure = number;
        const auto done = object->load(engine());
        if (done) return;
        ++failed;
        EXPECT_EQ(done.error().code(), ENOMEM) << done.error().message();
    });
    EXPECT_GT(failed, 50);
}

TEST_F(KernelMemory, an_allocation_that_fails_in_a_call_of_the_host_is_ENOMEM) {
    const Object object = loaded("engine");
    bpf::Program& program = *object.program("follow").value();
    bpf::Map& counts = *object.map("counts").value();
    const auto arena = object.arena().value();
    const auto is_right = [](const auto& result) { return result || result.error().code() == ENOMEM; };
    ASSERT_TRUE(object.program("compute").value()->run());
    constexpr std::uint32_t k_key = 2;
    const auto key = std::as_bytes(std::span{&k_key, 1});
    void* const page = arena->alloc_pages(PageCount{1}).value();
    with_each_allocation_failing([&] {
        std::array<std::uint64_t, 3> context{arena->user_vm_start().value() + 9 * k_page_size, 1, 88};
        const auto result = program.run(std::as_writable_bytes(std::span{context}));
        EXPECT_TRUE(is_right(result));
        EXPECT_TRUE(!result || !result->faults_known || result->fault_count == 2);
    });
    with_each_allocation_failing([&] { EXPECT_TRUE(is_right(counts.lookup(key))); });
    with_each_allocation_failing([&] { EXPECT_TRUE(is_right(counts.next_key(std::nullopt))); });
    with_each_allocation_failing([&] { EXPECT_TRUE(is_right(arena->statistics())); });
    with_each_allocation_failing([&] { EXPECT_TRUE(is_right(arena->alloc_pages(PageCount{1}))); });
    bool freed = false;
    with_each_allocation_failing([&] {
        if (freed) return;
        const auto done = arena->free_pages(page, PageCount{1});
        EXPECT_TRUE(is_right(done));
        freed = done.has_value();
    });
    with_each_allocation_failing([&] { EXPECT_TRUE(is_right(try_engine())); });
}

TEST_F(KernelMemory, a_refusal_is_told_though_there_is_no_memory_for_the_log) {
    auto object = Object::open(KernelTest::object("refused"));
    ASSERT_TRUE(object);
    bool told_without = false;
    with_each_allocation_failing([&] {
        const auto done = object->load(engine(), {.verbose_log = true});
        if (!done && done.error().code() == EACCES)
            told_without |= done.error().message().find("no memory for the verifier's log") != std::string::npos;
        else
            EXPECT_EQ(done.error().code(), ENOMEM);
    });
    EXPECT_TRUE(told_without);
}

}  // namespace
}  // namespace harena::kernel::test
