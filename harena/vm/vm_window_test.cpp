// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/vm_window.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::ok;
using test::refused;

std::uint64_t number(const void* address) { return reinterpret_cast<std::uint64_t>(address); }

std::string mapping_at(const void* address) { return os::find_mapping(number(address), 1).value_or("(none)"); }

class VmWindows : public testing::Test {
protected:
    VmWindow take(const VmWindowOptions& options) {
        auto window = space_->take_window(options);
        EXPECT_TRUE(window) << window.error().message();
        return *std::move(window);
    }
    static constexpr VmWindowOptions k_options{.bytes = 64 * k_mib,
                                               .alignment = k_huge_page_size,
                                               .guard_below = 8 * k_kib,
                                               .guard_above = 12 * k_kib,
                                               .user = true,
                                               .name = "window"};

    std::unique_ptr<VmSpace> space_ = VmSpace::create({.bytes = 16 * k_mib}).value();
};

TEST_F(VmWindows, are_reserved_with_their_guards_outside_of_the_space) {
    const VmWindow window = take(k_options);
    EXPECT_EQ(number(window.base()) % k_huge_page_size, 0U);
    EXPECT_EQ(window.bytes(), 64 * k_mib);
    EXPECT_EQ(window.span_begin(), window.base() - 8 * k_kib);
    EXPECT_EQ(window.span_bytes(), 64 * k_mib + 20 * k_kib);
    EXPECT_TRUE(window.span_begin() >= space_->base() + space_->bytes() ||
                window.span_begin() + window.span_bytes() <= space_->base());
    for (const std::byte* at : {window.span_begin(), window.base(), window.span_begin() + window.span_bytes() - 1})
        EXPECT_NE(mapping_at(at).find(" ---p "), std::string::npos) << mapping_at(at);
}

TEST_F(VmWindows, leave_nothing_behind_and_can_be_had_again_where_they_were) {
    std::byte* base = nullptr;
    {
        const VmWindow window = take(k_options);
        base = window.base();
    }
    EXPECT_FALSE(os::find_mapping(number(base) - 8 * k_kib, 64 * k_mib + 20 * k_kib));
    EXPECT_FALSE(space_->find_vm_area(base));
    EXPECT_EQ(space_->statistics().areas, 0U);
    EXPECT_EQ(space_->vmallocinfo().value(), "");
    VmWindowOptions there = k_options;
    there.address = number(base);
    EXPECT_EQ(take(there).base(), base);
}

TEST_F(VmWindows, are_found_by_every_address_in_them_and_their_guards) {
    const VmWindow window = take(k_options);
    for (const std::byte* at : {window.span_begin(), window.base(), window.base() + window.bytes() - 1,
                                window.span_begin() + window.span_bytes() - 1}) {
        const auto found = space_->find_vm_area(at);
        ASSERT_TRUE(found);
        EXPECT_EQ(found->begin, number(window.base()));
        EXPECT_EQ(found->kind, VmKind::backed);
        EXPECT_EQ(found->user, 1);
    }
    EXPECT_FALSE(space_->find_vm_area(window.span_begin() - 1));
    EXPECT_FALSE(space_->find_vm_area(window.span_begin() + window.span_bytes()));
}

TEST_F(VmWindows, are_areas_of_the_backed_form_with_a_name_and_who_asked) {
    const VmWindow window = take(k_options);
    const auto areas = space_->areas().value();
    ASSERT_EQ(areas.size(), 1U);
    EXPECT_EQ(areas[0].begin, window.base());
    EXPECT_EQ(areas[0].bytes, window.bytes());
    EXPECT_EQ(areas[0].guard_below, 8 * k_kib);
    EXPECT_EQ(areas[0].guard_bytes, 12 * k_kib);
    EXPECT_EQ(areas[0].kind, VmKind::backed);
    EXPECT_EQ(areas[0].name, "window");
    EXPECT_NE(areas[0].where.find("vm_window_test.cpp:"), std::string::npos) << areas[0].where;
    EXPECT_EQ(space_->statistics().areas, 1U);
    const std::string line = space_->vmallocinfo().value();
    EXPECT_TRUE(line.starts_with(fmt::format("{:#018x}-{:#018x} {} ", number(window.span_begin()),
                                             number(window.span_begin()) + window.span_bytes(), window.span_bytes())))
        << line;
    EXPECT_TRUE(line.ends_with("[window] sparse backed user\n")) << line;
    EXPECT_TRUE(refused(space_->remove_vm_area(window.base()), ENOENT, "no area begins at")) << "it has an owner";
}

TEST_F(VmWindows, say_how_many_pages_their_owner_counts) {
    struct Counter final : VmPageCounter {
        [[nodiscard]] std::uint64_t present_pages() const noexcept override { return pages.load(); }
        std::atomic<std::uint64_t> pages = 0;
    };
    Counter counter;
    VmWindow window = take(k_options);
    window.count_pages_with(&counter);
    EXPECT_EQ(space_->areas().value().at(0).pages, 0U);
    counter.pages = 12;
    EXPECT_EQ(space_->areas().value().at(0).pages, 12U);
    EXPECT_NE(space_->vmallocinfo().value().find(" pages=12 "), std::string::npos);
    window.count_pages_with(nullptr);
    counter.pages = 13;
    EXPECT_EQ(space_->areas().value().at(0).pages, 12U);
}

TEST_F(VmWindows, move) {
    VmWindow window = take(k_options);
    std::byte* const base = window.base();
    VmWindow moved = std::move(window);
    EXPECT_EQ(moved.base(), base);
    EXPECT_EQ(space_->areas().value().size(), 1U);
    moved = take({.bytes = k_page_size, .name = "other"});
    EXPECT_FALSE(os::find_mapping(number(base), 64 * k_mib));
    ASSERT_EQ(space_->areas().value().size(), 1U);
    EXPECT_EQ(space_->areas().value()[0].name, "other");
}

TEST_F(VmWindows, that_cannot_be_are_refused_and_leave_nothing_behind) {
    const auto with = [](auto change) {
        VmWindowOptions options = k_options;
        change(options);
        return options;
    };
    const auto refuse = [&](auto change, int code, std::string_view part) {
        EXPECT_TRUE(refused(space_->take_window(with(change)), code, part));
    };
    refuse([](auto& o) { o.bytes = 0; }, EINVAL, "0 bytes");
    refuse([](auto& o) { o.bytes = 4095; }, EINVAL, "no whole pages");
    refuse([](auto& o) { o.guard_below = 1; }, EINVAL, "no whole pages");
    refuse([](auto& o) { o.guard_above = 4097; }, EINVAL, "no whole pages");
    refuse([](auto& o) { o.alignment = 0; }, EINVAL, "power of two");
    refuse([](auto& o) { o.alignment = 3 * k_page_size; }, EINVAL, "power of two");
    refuse([](auto& o) { o.address = k_gib + k_page_size; }, EINVAL, "alignment 0x200000");
    refuse([](auto& o) { o.address = 0; }, ENOMEM, "only 0x200000 to 0x7ffffbe00000 can hold a window");
    refuse([](auto& o) { o.address = ~std::uint64_t{0} << 21; }, ENOMEM, "can hold a window");
    refuse([](auto& o) { o.bytes = std::uint64_t{1} << 46; }, ENOMEM, "at most");
    refuse([](auto& o) { o.guard_above = ~std::uint64_t{0} << 12; }, ENOMEM, "at most");
    refuse([&](auto& o) { o.address = number(space_->base()) / k_huge_page_size * k_huge_page_size; }, EEXIST, "taken");
    EXPECT_EQ(space_->statistics().areas, 0U);
}

TEST_F(VmWindows, that_a_system_call_fails_leave_nothing_behind) {
    for (const auto& [call, error] : {std::pair{os::Call::mmap, ENOMEM}, std::pair{os::Call::madvise, EINVAL}}) {
        const std::size_t mappings = test::count_mappings();
        os::FailCall injector{call, error};
        {
            const os::ScopedFaultInjector scope{injector};
            EXPECT_TRUE(refused(space_->take_window(k_options), error, ""));
        }
        EXPECT_GT(injector.seen(), 0U);
        if (!test::k_sanitizer) {
            EXPECT_EQ(test::count_mappings(), mappings);
        }
        EXPECT_EQ(space_->statistics().areas, 0U);
        (void)take(k_options);
    }
}

TEST_F(VmWindows, more_than_the_space_has_areas_are_refused) {
    const auto small = VmSpace::create({.bytes = k_mib, .max_areas = 2}).value();
    const auto first = small->take_window(k_options);
    auto second = small->take_window(k_options);
    ASSERT_TRUE(first && second);
    EXPECT_TRUE(refused(small->take_window(k_options), ENOMEM, "2 areas at most"));
    EXPECT_TRUE(refused(small->get_vm_area(1, VmKind::map), ENOMEM, "2 areas at most"));
    second = fail(0, "");
    EXPECT_TRUE(small->take_window(k_options));
    EXPECT_TRUE(refused(VmSpace::create({.bytes = k_mib, .max_areas = 0}), EINVAL, "0 areas"));
}

// Readers wait for nobody, and never see half of a window.
TEST_F(VmWindows, are_found_while_others_come_and_go) {
    const VmWindow stays = take(k_options);
    std::atomic<bool> stop{false};
    std::thread others{[&] {
        while (!stop.load()) {
            const auto window = space_->take_window({.bytes = k_page_size, .name = "short"});
            (void)space_->vmallocinfo();
        }
    }};
    for (int i = 0; i < 20'000; ++i) {
        const auto found = space_->find_vm_area(stays.base() + 1);
        ASSERT_TRUE(found);
        ASSERT_EQ(found->begin, number(stays.base()));
        ASSERT_EQ(found->bytes, stays.bytes());
    }
    stop = true;
    others.join();
}

int status_of_child(auto&& body) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(body() ? 0 : 1);
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
}

// The thread sanitizer's own thread of a child has its stack where the window's memory was.
#if defined(__SANITIZE_THREAD__)
constexpr bool k_others_are_there = true;
#else
constexpr bool k_others_are_there = false;
#endif

TEST_F(VmWindows, are_closed_in_a_child_and_what_was_mapped_there_is_gone) {
    auto window = std::make_unique<VmWindow>(take(k_options));
    ASSERT_TRUE(
        ok(os::mmap(window->base(), k_page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
               ? Result<void>{}
               : fail(ENOMEM, "mmap")));
    ASSERT_TRUE(os::madvise(window->base(), k_page_size, MADV_DONTFORK));
    *window->base() = std::byte{1};
    EXPECT_EQ(status_of_child([&] {
                  const bool closed = mapping_at(window->base()).find(" ---p ") != std::string::npos &&
                                      mapping_at(window->span_begin()) == mapping_at(window->base());
                  const bool dead = refused(space_->take_window(k_options), EOWNERDEAD, "parent");
                  std::byte* const base = window->base();
                  const bool found = space_->find_vm_area(base).has_value();
                  window.reset();
                  return closed && dead && !found &&
                         (k_others_are_there || !os::find_mapping(number(base), 64 * k_mib));
              }),
              0);
    EXPECT_EQ(*window->base(), std::byte{1});
}

TEST(ProcessSpace, is_one_for_all_threads) {
    std::vector<VmSpace*> spaces(4, nullptr);
    std::vector<std::thread> threads;
    threads.reserve(spaces.size());
    for (VmSpace*& space : spaces) threads.emplace_back([&space] { space = VmSpace::process().value(); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_NE(spaces[0], nullptr);
    EXPECT_TRUE(std::ranges::all_of(spaces, [&](const VmSpace* space) { return space == spaces[0]; }));
    EXPECT_EQ(VmSpace::process().value(), spaces[0]);
    EXPECT_EQ(test::count_mappings("memfd:harena:areas"), 1U);
}

// A sanitizer's handler of fork maps a thread's stack where the parent's memory was, before the range is reserved
// again.
TEST(ProcessSpace, what_others_mapped_in_a_childs_window_outlives_it) {
    constexpr std::uint64_t k_bytes = 16 * k_page_size;
    std::optional<VmWindow> window = VmSpace::process().value()->take_window({.bytes = k_bytes}).value();
    std::byte* const base = window->base();
    EXPECT_EQ(status_of_child([&] {
                  std::byte* const theirs = base + 5 * k_page_size;
                  constexpr int k_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
                  if (::mmap(theirs, k_page_size, PROT_READ | PROT_WRITE, k_flags, -1, 0) != theirs) return false;
                  *theirs = std::byte{7};
                  window.reset();
                  const auto is_free = [](std::byte* at) {
                      constexpr int k_probe = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
                      return ::mmap(at, k_page_size, PROT_NONE, k_probe, -1, 0) == at;
                  };
                  return *theirs == std::byte{7} && is_free(base) && is_free(base + 6 * k_page_size) &&
                         is_free(base + k_bytes - k_page_size);
              }),
              0);
}

TEST(ProcessSpace, of_a_child_is_its_own_and_empty) {
    VmSpace* const parents = VmSpace::process().value();
    const auto window = parents->take_window({.bytes = k_page_size, .name = "parents"});
    ASSERT_TRUE(window);
    EXPECT_EQ(status_of_child([&] {
                  VmSpace* const own = VmSpace::process().value();
                  return own != parents && own->areas().value().empty() && own->take_window({.bytes = k_page_size}) &&
                         own == VmSpace::process().value() && !own->find_vm_area(window->base());
              }),
              0);
    EXPECT_EQ(parents->areas().value().size(), 1U);
}

}  // namespace
}  // namespace harena
