// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/object.hpp"
#include "harena/bpf/test_programs.hpp"
#include "harena/kernel/child_process_test.hpp"
#include "harena/kernel/test_support.hpp"

namespace harena::kernel::test {
namespace {

using bpf::Object;
using bpf::UpdateMode;

using KernelEngine = KernelTest;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span{&value, 1});
}

TEST_F(KernelEngine, globals_of_every_section_are_one_with_the_hosts) {
    auto object = Object::open(KernelTest::object("engine"));
    ASSERT_TRUE(object) << object.error().message();
    auto* const in_data = object->global<std::uint32_t>("in_data").value();
    auto* const in_bss = object->global<std::uint64_t>("in_bss").value();
    *object->global<std::uint32_t>("factor").value() = 4;
    *in_data = 6;
    const auto done = object->load(engine());
    ASSERT_TRUE(done) << done.error().message();

    // Pointers from before loading hold.
    EXPECT_EQ(object->global<std::uint32_t>("in_data").value(), in_data);
    const auto first = object->program("compute").value()->run();
    ASSERT_TRUE(first) << first.error().message();
    EXPECT_EQ(first->return_value, 6U * 4 + 7);
    EXPECT_EQ(*in_bss, 6U * 4 + 7);
    *in_data = 10;
    EXPECT_EQ(object->program("compute").value()->run()->return_value, 10U * 4 + 8);  // the arena's global grew
    EXPECT_EQ(*object->global<std::uint64_t>("in_arena").value(), 9U);
    EXPECT_TRUE(refused(object->global<std::uint32_t>("factor"), EPERM, "read-only"));
    EXPECT_EQ(*object->global<const std::uint32_t>("factor").value(), 4U);
}

TEST_F(KernelEngine, maps_have_the_elements_of_both_sides) {
    const Object object = loaded("engine");
    ASSERT_TRUE(object.program("compute").value()->run());
    bpf::Map& counts = *object.map("counts").value();
    bpf::Map& slots = *object.map("slots").value();
    constexpr std::uint32_t k_key = 2;
    constexpr std::uint32_t k_other = 9;
    std::uint64_t value = 0;
    const auto found = slots.lookup(bytes_of(k_key));
    ASSERT_TRUE(found) << found.error().message();
    std::memcpy(&value, found->data(), sizeof value);
    EXPECT_EQ(value, 5U * 3 + 7);
    EXPECT_TRUE(refused(counts.lookup(bytes_of(k_other)), ENOENT, "map 'counts'"));
    EXPECT_TRUE(refused(counts.update(bytes_of(k_key), bytes_of(value), UpdateMode::create), EEXIST, "update"));
    EXPECT_TRUE(counts.update(bytes_of(k_other), bytes_of(value), UpdateMode::create));
    EXPECT_TRUE(counts.erase(bytes_of(k_key)));
    EXPECT_TRUE(refused(counts.erase(bytes_of(k_key)), ENOENT, "delete"));
    const auto next = counts.next_key(std::nullopt);
    ASSERT_TRUE(next);
    EXPECT_EQ(std::memcmp(next->data(), &k_other, sizeof k_other), 0);
    EXPECT_TRUE(refused(counts.next_key(*next), ENOENT, "next key"));
    EXPECT_TRUE(refused(counts.lookup(bytes_of(value)), EINVAL, "8 bytes"));
    EXPECT_TRUE(refused(slots.erase(bytes_of(k_key)), EINVAL, "slots"));
    bpf::Map& arena = *object.map("arena").value();
    EXPECT_TRUE(refused(arena.lookup(bytes_of(k_key)), EINVAL, "is an arena"));
    EXPECT_TRUE(refused(arena.update(bytes_of(k_key), bytes_of(value), UpdateMode::any), EOPNOTSUPP, "is an arena"));
    EXPECT_TRUE(refused(arena.erase(bytes_of(k_key)), EOPNOTSUPP, "is an arena"));
    EXPECT_TRUE(refused(arena.next_key(std::nullopt), EOPNOTSUPP, "is an arena"));
    EXPECT_TRUE(refused(counts.set_program(0, *object.program("compute").value()), EOPNOTSUPP, "PROG_ARRAY"));
}

TEST_F(KernelEngine, host_and_program_follow_the_same_pointers) {
    const Object object = loaded("engine");
    const auto arena = object.arena().value();
    const auto page = arena->alloc_pages(PageCount{1});
    ASSERT_TRUE(page) << page.error().message();
    auto* const word = static_cast<volatile std::uint64_t*>(*page) + 3;
    *word = 77;
    std::array<std::uint64_t, 3> context{reinterpret_cast<std::uint64_t>(word), 0, 88};
    const auto result = object.program("follow").value()->run(std::as_writable_bytes(std::span{context}));
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_EQ(context[1], 77U);
    EXPECT_EQ(*word, 88U);
    EXPECT_EQ(result->fault_count, 0U);
}

TEST_F(KernelEngine, faults_say_where_they_were) {
    const auto report = try_engine();
    if (!report->no_faults.empty()) GTEST_SKIP() << report->no_faults;
    const Object object = loaded("engine");
    const std::uint64_t absent = object.arena().value()->user_vm_start().value() + 5 * k_page_size;
    std::array<std::uint64_t, 3> context{absent, 1, 88};
    bpf::Program& program = *object.program("follow").value();
    const auto result = program.run(std::as_writable_bytes(std::span{context}));
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_TRUE(result->faults_known);
    EXPECT_EQ(context[1], 0U);
    ASSERT_EQ(result->fault_count, 2U);
    EXPECT_EQ(result->faults[0].access, bpf::Fault::Access::read);
    EXPECT_EQ(result->faults[1].access, bpf::Fault::Access::write);
    EXPECT_EQ(result->faults[0].address.value(), absent);
    EXPECT_EQ(result->faults[0].function, "follow");
    EXPECT_NE(result->faults[0].place.find("ctx[1] = *p;"), std::string::npos) << result->faults[0].place;
    EXPECT_NE(result->faults[1].place.find("*p = ctx[2];"), std::string::npos) << result->faults[1].place;
    EXPECT_EQ(program.fault_log().count(), 2U);
}

TEST_F(KernelEngine, runs_on_many_threads_have_their_own_faults) {
    const auto report = try_engine();
    if (!report->no_faults.empty()) GTEST_SKIP() << report->no_faults;
    const Object object = loaded("engine");
    bpf::Program& program = *object.program("follow").value();
    const std::uint64_t start = object.arena().value()->user_vm_start().value();
    constexpr std::uint64_t k_threads = 4;
    constexpr std::uint64_t k_rounds = 200;
    std::array<std::uint64_t, k_threads> wrong{};
    {
        std::vector<std::jthread> threads;
        for (std::uint64_t thread = 0; thread < k_threads; ++thread)
            threads.emplace_back([&, thread] {
                for (std::uint64_t round = 0; round < k_rounds; ++round) {
                    std::array<std::uint64_t, 3> context{start + (10 + thread) * k_page_size, 1, 2};
                    const auto result = program.run(std::as_writable_bytes(std::span{context}));
                    const bool right = result && result->fault_count == 2 && result->faults_known &&
                                       result->faults[1].address.value() == context[0];
                    if (!right) ++wrong[thread];
                }
            });
    }
    EXPECT_EQ(wrong, (std::array<std::uint64_t, k_threads>{}));
    EXPECT_EQ(program.fault_log().count(), 2 * k_threads * k_rounds);
}

TEST_F(KernelEngine, a_refused_program_says_which_line_and_why) {
    auto object = Object::open(KernelTest::object("refused"));
    ASSERT_TRUE(object);
    const auto short_log = object->load(engine());
    ASSERT_FALSE(short_log);
    const std::string& message = short_log.error().message();
    EXPECT_EQ(short_log.error().code(), EACCES);
    EXPECT_NE(message.find("program 'dereferences' instruction"), std::string::npos) << message;
    EXPECT_NE(message.find("refused.bpf.c:20: return *count;"), std::string::npos) << message;
    EXPECT_NE(message.find("invalid mem access 'map_value_or_null'"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    // The object can be loaded elsewhere, or again.
    const auto whole_log = object->load(engine(), {.verbose_log = true});
    EXPECT_TRUE(refused(whole_log, EACCES, "processed "));
    EXPECT_TRUE(refused(whole_log, EACCES, "\n0: "));
    EXPECT_TRUE(object->load(bpf::Engine::process()));
}

TEST_F(KernelEngine, what_is_asked_of_it_and_linux_does_not_have_is_an_error) {
    const Object object = loaded("engine");
    bpf::Program& program = *object.program("compute").value();
    EXPECT_TRUE(refused(program.run({}, {.max_instructions = 5}), ENOTSUP, "max_instructions"));
    std::vector<std::byte> large(65536);
    EXPECT_TRUE(refused(program.run(large), E2BIG, "65535"));
    auto other = Object::open(KernelTest::object("engine"));
    EXPECT_TRUE(refused(other->load(engine(), {.max_frames = 4}), ENOTSUP, "max_frames"));
}

TEST_F(KernelEngine, a_context_has_what_the_program_uses_and_no_packet) {
    const Object object = loaded("contexts", {.only_load = "reads_context"});
    bpf::Program& program = *object.program("reads_context").value();
    EXPECT_TRUE(refused(program.run(), EINVAL, "0 bytes"));
    std::array<std::uint64_t, 4> context{0, 0, 0, 41};
    EXPECT_EQ(program.run(std::as_writable_bytes(std::span{context}))->return_value, 41U);

    auto packets = Object::open(KernelTest::object("contexts"), {.only_load = "passes"});
    ASSERT_TRUE(packets);
    if (const auto done = packets->load(engine()); !done && done.error().code() == EPERM)
        GTEST_SKIP() << done.error().message();
    EXPECT_TRUE(refused(packets->program("passes").value()->run(), ENOTSUP, "xdp"));
}

TEST_F(KernelEngine, a_taken_window_names_the_occupant) {
    const std::uint64_t address = bpf::test::arena_address();
    void* const there = ::mmap(reinterpret_cast<void*>(address + 10 * k_page_size), k_page_size, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    ASSERT_NE(there, MAP_FAILED);
    auto object = Object::open(KernelTest::object("engine"),
                               {.arena_address = address, .arena_pages = std::nullopt, .also_load = {}});
    EXPECT_TRUE(refused(object->load(engine()), EEXIST,
                        fmt::format("{:x}-{:x}", address + 10 * k_page_size, address + 11 * k_page_size)));
    ::munmap(there, k_page_size);
    EXPECT_TRUE(object->load(engine()));
}

TEST_F(KernelEngine, arenas_that_cannot_be_are_refused) {
    const auto load = [&](std::uint64_t address, std::uint64_t pages) {
        auto object = Object::open(KernelTest::object("engine"),
                                   {.arena_address = address, .arena_pages = PageCount{pages}, .also_load = {}});
        return object->load(engine());
    };
    const std::uint64_t address = bpf::test::arena_address();
    EXPECT_TRUE(refused(load(address, 0), EINVAL, "0 pages"));
    EXPECT_TRUE(refused(load(address + 8, 10), EINVAL, "not a multiple"));
    EXPECT_TRUE(refused(load(address + 4 * k_gib - k_page_size, 2), ERANGE, "cross"));
    EXPECT_TRUE(load(address + 4 * k_gib - k_page_size, 1));
    EXPECT_TRUE(load(0, Arena::k_max_pages.value()));
}

TEST_F(KernelEngine, any_failing_system_call_is_an_error_and_leaves_nothing_behind) {
    using os::Call;
    auto object = Object::open(KernelTest::object("engine"));
    ASSERT_TRUE(object);
    auto* const in_data = object->global<std::uint32_t>("in_data").value();
    const auto descriptors = [] {
        int count = 0;
        for (int fd = 0; fd < 256; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
        return count;
    };
    const int before = descriptors();
    for (const Call call :
         {Call::bpf_map_create, Call::bpf_map_element, Call::bpf_map_freeze, Call::bpf_btf_load, Call::bpf_program_load,
          Call::bpf_program_run, Call::bpf_program_info, Call::bpf_attach, Call::mmap, Call::mremap, Call::madvise})
        for (std::uint64_t skip = 0; skip < 12; ++skip) {
            // Refused once more when it is asked why, and so on.
            os::FailCall injector{call, ENOMEM, skip, os::FailCall::Repeat::always};
            const os::ScopedFaultInjector scoped{injector};
            auto other = Object::open(KernelTest::object("engine"));
            if (!other) continue;
            const auto done = other->load(engine());
            if (injector.seen() <= skip) break;
            // A map's types are for tools: it is made without.
            if (!done) {
                EXPECT_EQ(done.error().code(), ENOMEM) << static_cast<int>(call) << ": " << done.error().message();
            }
        }
    EXPECT_EQ(descriptors(), before);
    *in_data = 5;
    EXPECT_TRUE(object->load(engine()));
    EXPECT_EQ(object->program("compute").value()->run()->return_value, 5U * 3 + 7);
}

/// Whether the page of `at` is taken and cannot be read.
bool is_reserved(const void* at) {
    std::array<int, 2> pipe{-1, -1};
    if (::pipe(pipe.data()) != 0 || ::write(pipe[1], at, 1) == 1) return false;
    void* const page = reinterpret_cast<void*>(align_down(reinterpret_cast<std::uint64_t>(at), k_page_size));
    constexpr int k_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    return ::mmap(page, k_page_size, PROT_NONE, k_flags, -1, 0) == MAP_FAILED && errno == EEXIST;
}

TEST_F(KernelEngine, a_child_after_fork_has_nothing_of_it) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    Object object = loaded("engine");
    const auto arena = object.arena().value();
    const auto* const global = object.global<std::uint64_t>("in_bss").value();
    const Child child = forked([&] {
        return refused(object.program("compute").value()->run(), EOWNERDEAD, "") &&
                       refused(arena->alloc_pages(PageCount{1}), EOWNERDEAD, "") &&
                       refused(arena->statistics(), EOWNERDEAD, "") &&
                       refused(object.map("counts").value()->next_key(std::nullopt), EOWNERDEAD, "") &&
                       is_reserved(arena->data()) && is_reserved(global)
                   ? Child::right
                   : Child::wrong;
    });
    EXPECT_EQ(child, Child::right);
}

TEST_F(KernelEngine, without_privilege_the_error_names_the_capabilities) {
    if (!k_children_work) GTEST_SKIP() << k_why_no_children;
    const Child child = forked([] {
        if (::setuid(65534) != 0) return Child::cannot;
        auto object = Object::open(KernelTest::object("engine"));
        return object && refused(object->load(engine()), EPERM, "CAP_BPF and CAP_PERFMON") &&
                       refused(try_engine(), EPERM, "CAP_BPF")
                   ? Child::right
                   : Child::wrong;
    });
    if (child == Child::cannot) GTEST_SKIP() << "not root: nothing to give up";
    EXPECT_EQ(child, Child::right);
}

}  // namespace
}  // namespace harena::kernel::test
