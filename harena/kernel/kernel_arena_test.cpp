// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/kernel_arena.hpp"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

#include "harena/kernel/test_support.hpp"

namespace harena::kernel::test {
namespace {

class KernelArenas : public KernelTest {
protected:
    static constexpr std::uint32_t k_mmapable = 1U << 10;
    static constexpr std::uint32_t k_segv_on_fault = 1U << 17;

    static std::shared_ptr<KernelArena> make(std::uint32_t pages, std::uint32_t flags = 0) {
        bpf::MapDefinition definition;
        definition.name = "test arena";
        definition.type = bpf::map_type::arena;
        definition.max_entries = pages;
        definition.flags = k_mmapable | flags;
        auto arena = KernelArena::create(definition);
        EXPECT_TRUE(arena) << arena.error().message();
        return arena ? *arena : nullptr;
    }
    static std::byte* page(const Arena& arena, std::uint64_t number) { return arena.data() + number * k_page_size; }
    static std::uint64_t used(Arena& arena) { return arena.statistics().value().used.value(); }
    static void touch(std::byte* at) { *static_cast<volatile std::byte*>(at) = std::byte{1}; }
};

TEST_F(KernelArenas, definitions_that_are_no_arenas_are_refused) {
    bpf::MapDefinition good;
    good.name = "test arena";
    good.type = bpf::map_type::arena;
    good.max_entries = 1;
    good.flags = k_mmapable;
    ASSERT_TRUE(KernelArena::create(good));
    for (const auto& change :
         {+[](bpf::MapDefinition& d) { d.key_size = 4; }, +[](bpf::MapDefinition& d) { d.value_size = 4; },
          +[](bpf::MapDefinition& d) { d.flags = 0; }, +[](bpf::MapDefinition& d) { d.flags |= 1; }}) {
        bpf::MapDefinition bad = good;
        change(bad);
        EXPECT_TRUE(refused(KernelArena::create(bad), EINVAL, "map_flags"));
    }
}

TEST_F(KernelArenas, pages_are_allocated_where_asked_and_zeroed) {
    const auto arena = make(16);
    EXPECT_EQ(used(*arena), 0U);
    const auto first = arena->alloc_pages(PageCount{2}, {.address = page(*arena, 3)});
    ASSERT_TRUE(first) << first.error().message();
    EXPECT_EQ(*first, page(*arena, 3));
    EXPECT_EQ(page(*arena, 4)[17], std::byte{0});
    EXPECT_EQ(used(*arena), 2U);
    EXPECT_TRUE(arena->alloc_pages(PageCount{11}));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{4}), ENOMEM, "free pages"));
    EXPECT_EQ(used(*arena), 13U);
}

TEST_F(KernelArenas, every_misuse_of_alloc_is_an_error) {
    const auto arena = make(16);
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{0}), EINVAL, "0"));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{17}), E2BIG, "17"));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}, {.address = page(*arena, 3) + 1}), EINVAL, "start of a page"));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}, {.address = page(*arena, 16)}), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}, {.node = 1000}), EINVAL, "1000"));
    touch(page(*arena, 5));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{3}, {.address = page(*arena, 4)}), EBUSY, "in use"));
    EXPECT_EQ(used(*arena), 1U);
}

TEST_F(KernelArenas, pages_are_freed_all_or_none) {
    const auto arena = make(16);
    ASSERT_TRUE(arena->alloc_pages(PageCount{4}, {.address = page(*arena, 2)}));
    touch(page(*arena, 3));
    EXPECT_TRUE(refused(arena->free_pages(page(*arena, 4), PageCount{3}), EINVAL, "free already"));
    EXPECT_EQ(used(*arena), 4U);
    EXPECT_TRUE(arena->free_pages(page(*arena, 2), PageCount{4}));
    EXPECT_EQ(used(*arena), 0U);
    EXPECT_TRUE(refused(arena->free_pages(page(*arena, 2), PageCount{1}), EINVAL, "free already"));
    EXPECT_TRUE(refused(arena->free_pages(nullptr, PageCount{1}), ERANGE, "arena"));
    EXPECT_TRUE(refused(arena->free_pages(page(*arena, 2) + 8, PageCount{1}), EINVAL, "start of a page"));
    ASSERT_TRUE(arena->alloc_pages(PageCount{1}, {.address = page(*arena, 3)}));
    EXPECT_EQ(page(*arena, 3)[0], std::byte{0});
}

TEST_F(KernelArenas, reserved_pages_are_kept_until_they_are_freed) {
    const auto arena = make(4);
    ASSERT_TRUE(arena->reserve_pages(arena->data(), PageCount{4}));
    EXPECT_TRUE(refused(arena->alloc_pages(PageCount{1}), ENOMEM, "free pages"));
    EXPECT_TRUE(refused(arena->reserve_pages(page(*arena, 1), PageCount{1}), EBUSY, "in use or reserved"));
    EXPECT_TRUE(refused(arena->reserve_pages(page(*arena, 1), PageCount{4}), ERANGE, "arena"));
    EXPECT_TRUE(arena->free_pages(page(*arena, 1), PageCount{2}));
    EXPECT_TRUE(arena->alloc_pages(PageCount{2}));
}

TEST_F(KernelArenas, populate_makes_pages_present) {
    const auto arena = make(16);
    EXPECT_TRUE(arena->populate(page(*arena, 3) + 100, k_page_size));
    EXPECT_EQ(used(*arena), 2U);
    EXPECT_TRUE(arena->populate(page(*arena, 3), 0));
    EXPECT_TRUE(refused(arena->populate(page(*arena, 15), k_page_size + 1), ERANGE, "arena"));
    const auto faults = make(16, k_segv_on_fault);
    EXPECT_TRUE(refused(faults->populate(faults->data(), 1), EFAULT, "populated"));
    EXPECT_TRUE(faults->segv_on_fault());
}

TEST_F(KernelArenas, with_segv_on_fault_the_host_reaches_allocated_pages_only) {
    const auto arena = make(16, k_segv_on_fault);
    ASSERT_TRUE(arena->alloc_pages(PageCount{1}, {.address = page(*arena, 3)}));
    touch(page(*arena, 3));
    // The kernel touches for us: a signal becomes EFAULT.
    std::array<int, 2> pipe{-1, -1};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    EXPECT_EQ(::write(pipe[1], page(*arena, 3), 1), 1);
    EXPECT_EQ(::write(pipe[1], page(*arena, 4), 1), -1);
    EXPECT_EQ(errno, EFAULT);
    ::close(pipe[0]);
    ::close(pipe[1]);
    EXPECT_EQ(used(*arena), 1U);
}

TEST_F(KernelArenas, present_pages_are_seen_whoever_made_them) {
    const auto arena = make(200);
    ASSERT_TRUE(arena->alloc_pages(PageCount{1}, {.address = page(*arena, 0)}));  // not in the host's page tables
    touch(page(*arena, 63));
    touch(page(*arena, 64));
    ASSERT_TRUE(arena->alloc_pages(PageCount{1}, {.address = page(*arena, 199)}));
    const auto present = arena->present(PageRange::of(PageIndex{0}, arena->pages()));
    ASSERT_TRUE(present) << present.error().message();
    ASSERT_EQ(present->size(), 200U);
    for (std::size_t i = 0; i < present->size(); ++i)
        EXPECT_EQ((*present)[i], i == 0 || i == 63 || i == 64 || i == 199) << i;
    const auto part = arena->present(PageRange::of(PageIndex{62}, PageCount{3}));
    ASSERT_TRUE(part);
    EXPECT_EQ(*part, (std::vector<bool>{false, true, true}));
}

}  // namespace
}  // namespace harena::kernel::test
