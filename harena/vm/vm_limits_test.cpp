// SPDX-License-Identifier: Apache-2.0
// Mappings: the space's own budget of them, and the kernel's limit.
#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "harena/base/os/file.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::readable;
using test::refused;
using test::VmTest;

/// Lines of /proc/self/maps of the space's addresses.
std::uint64_t mappings_of(const VmSpace& space) {
    const auto file = os::read_file("/proc/self/maps");
    if (!file) return 0;
    const auto base = reinterpret_cast<std::uint64_t>(space.base());
    std::string text{reinterpret_cast<const char*>(file->data()), file->size()};
    std::uint64_t count = 0;
    for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
        char* rest = nullptr;
        const std::uint64_t begin = std::strtoull(text.c_str() + at, &rest, 16);
        const std::uint64_t end = std::strtoull(rest + 1, nullptr, 16);
        if (begin < base + space.bytes() && end > base) ++count;
    }
    return count;
}

class VmBudget : public VmTest {
protected:
    static std::unique_ptr<VmSpace> make_tight(PagePool* pool, std::uint64_t max_vmas) {
        return VmSpace::create({.bytes = k_space_bytes, .pool = pool, .max_vmas = max_vmas}).value();
    }
    /// Every other of `count` pages: no two adjoin.
    std::vector<Page*> take_scattered(std::size_t count) {
        Page* const block = pool_->alloc_pages(k_pageblock_order).value();
        std::vector<Page*> pages;
        for (std::uint32_t i = 0; i < count; ++i) pages.push_back(pool_->page(pool_->pfn(block) + 2 * i));
        return pages;
    }
    void give_scattered(const std::vector<Page*>& pages) {
        ASSERT_TRUE(pool_->free_pages(pages[0], k_pageblock_order));
    }
};

TEST_F(VmBudget, counts_the_mappings_that_there_are) {
    const auto pages = take_scattered(100);
    Page* const block = pool_->alloc_pages(Order{4}).value();
    std::vector<Page*> run;
    for (std::uint32_t i = 0; i < 16; ++i) run.push_back(pool_->page(pool_->pfn(block) + i));
    const auto check = [&](int line) { EXPECT_EQ(space_->statistics().vmas, mappings_of(*space_)) << "line " << line; };
    check(__LINE__);
    (void)space_->get_vm_area(k_page_size, VmKind::map).value();  // what begins with the space has one end fewer
    void* const mapped = space_->vmap(pages).value();
    check(__LINE__);
    EXPECT_EQ(space_->statistics().vmas, 102U);
    VmArea* const area = sparse(64);
    const auto at = [&](std::uint64_t page) { return plus(area->begin(), page); };
    ASSERT_TRUE(space_->map_pages(area, at(8), at(24), run));
    check(__LINE__);
    ASSERT_TRUE(space_->unmap_pages(area, at(10), at(12)));  // a hole
    check(__LINE__);
    ASSERT_TRUE(space_->map_pages(area, at(10), at(12), std::span{run}.subspan(2, 2)));  // and whole again
    check(__LINE__);
    ASSERT_TRUE(space_->unmap_pages(area, at(0), at(9)));
    ASSERT_TRUE(space_->map_pages(area, at(0), at(8), std::span{run}.first(8)));
    check(__LINE__);
    ASSERT_TRUE(space_->map_pages(area, at(60), at(64), std::span{pages}.first(4)));  // to its end
    check(__LINE__);
    void* const allocated = space_->vmalloc(7 * k_page_size).value();
    check(__LINE__);
    ASSERT_TRUE(space_->vfree(allocated));
    check(__LINE__);  // waits
    ASSERT_TRUE(space_->vunmap(mapped));
    ASSERT_TRUE(space_->free_vm_area(area));
    check(__LINE__);
    ASSERT_TRUE(space_->purge());
    check(__LINE__);
    EXPECT_EQ(space_->statistics().vmas, 1U);
    give_scattered(pages);
    ASSERT_TRUE(pool_->free_pages(block, Order{4}));
}

TEST_F(VmBudget, of_vm_map_ram_is_never_less_than_there_are) {
    const auto pages = take_scattered(100);
    std::vector<void*> held;
    for (std::size_t i = 0; i + 3 < 100; i += 3) {
        held.push_back(space_->vm_map_ram(std::span{pages}.subspan(i, 3)).value());
        ASSERT_GE(space_->statistics().vmas, mappings_of(*space_));
    }
    for (std::size_t i = 0; i < held.size(); i += 2) ASSERT_TRUE(space_->vm_unmap_ram(held[i], 3));
    ASSERT_GE(space_->statistics().vmas, mappings_of(*space_));
    ASSERT_TRUE(space_->purge());
    ASSERT_GE(space_->statistics().vmas, mappings_of(*space_));
    for (std::size_t i = 1; i < held.size(); i += 2) ASSERT_TRUE(space_->vm_unmap_ram(held[i], 3));
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(space_->statistics().vmas, 1U);
    EXPECT_EQ(space_->statistics().areas, 0U);
    EXPECT_EQ(mappings_of(*space_), 1U);
    give_scattered(pages);
}

TEST_F(VmBudget, refuses_what_would_be_more_and_changes_nothing) {
    const auto tight = make_tight(pool_.get(), 20);
    const auto pages = take_scattered(200);
    EXPECT_TRUE(refused(tight->vmap(pages), ENOMEM, "max_vmas"));
    EXPECT_EQ(tight->statistics().areas, 0U);
    EXPECT_EQ(tight->statistics().vmas, 1U);
    VmArea* const area = tight->get_vm_area(64 * k_page_size, VmKind::sparse).value();
    const auto at = [&](std::uint64_t page) { return plus(area->begin(), page); };
    ASSERT_TRUE(tight->map_pages(area, at(0), at(18), std::span{pages}.first(18)));
    EXPECT_EQ(tight->statistics().vmas, 20U);
    EXPECT_TRUE(refused(tight->map_pages(area, at(18), at(19), std::span{pages}.subspan(18, 1)), ENOMEM, "max_vmas"));
    EXPECT_TRUE(refused(tight->vm_map_ram(std::span{pages}.first(1)), ENOMEM, "max_vmas"));
    EXPECT_TRUE(refused(tight->vmalloc(1), ENOMEM, "max_vmas"));
    EXPECT_TRUE(refused(tight->ioremap(pool_->fd(), 0, k_page_size), ENOMEM, "max_vmas"));
    EXPECT_FALSE(readable(at(18)));
    EXPECT_EQ(tight->areas().value().at(0).pages, 18U);
    EXPECT_EQ(tight->statistics().vmas, 20U);
    ASSERT_TRUE(tight->unmap_pages(area, at(16), at(18)));  // room for one more area
    EXPECT_TRUE(tight->vfree(tight->vmalloc(1).value()));
    EXPECT_TRUE(tight->vfree(tight->vmalloc(1).value()));  // after the one that waits is unmapped
    EXPECT_EQ(tight->statistics().purges, 1U);
    ASSERT_TRUE(tight->free_vm_area(area));
    ASSERT_TRUE(tight->purge());
    EXPECT_EQ(tight->statistics().vmas, 1U);
    give_scattered(pages);
}

TEST_F(VmBudget, of_a_hole_in_a_run_counts_too) {
    const auto tight = make_tight(pool_.get(), 3);
    Page* const block = pool_->alloc_pages(Order{3}).value();
    std::vector<Page*> run;
    for (std::uint32_t i = 0; i < 8; ++i) run.push_back(pool_->page(pool_->pfn(block) + i));
    VmArea* const area = tight->get_vm_area(8 * k_page_size, VmKind::sparse).value();
    ASSERT_TRUE(tight->map_pages(area, area->begin(), plus(area->begin(), 8), run));
    EXPECT_TRUE(refused(tight->unmap_pages(area, plus(area->begin(), 3), plus(area->begin(), 4)), ENOMEM, "max_vmas"));
    EXPECT_TRUE(readable(plus(area->begin(), 3)));
    EXPECT_TRUE(tight->unmap_pages(area, plus(area->begin(), 3), plus(area->begin(), 8)));
    EXPECT_TRUE(tight->unmap_pages(area, area->begin(), plus(area->begin(), 8)));
    EXPECT_EQ(tight->statistics().vmas, 1U);
    ASSERT_TRUE(pool_->free_pages(block, Order{3}));
}

/// The process's mappings are used up: by as many of the test's own.
class AllMappings {
public:
    AllMappings() {
        base_ = static_cast<std::byte*>(
            ::mmap(nullptr, k_pages * k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        // A page of another protection among others makes two more. What mprotect refuses, mmap may still do.
        std::uint64_t page = 1;
        while (::mprotect(base_ + page * k_page_size, k_page_size, PROT_READ) == 0) page += 2;
        page += 2;
        for (int i = 0; i < 8; ++i, page += 2)
            (void)::mmap(base_ + page * k_page_size, k_page_size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                         -1, 0);
        while (::mmap(nullptr, k_page_size, last_ ? PROT_READ : PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
               MAP_FAILED)
            last_ = !last_;
    }

private:
    static constexpr std::uint64_t k_pages = 1'000'000;
    std::byte* base_;
    bool last_ = false;
};

// In a process of its own, which returns the line of what did not hold.
#define HARENA_HOLDS(...) \
    if (!(__VA_ARGS__)) return __LINE__

int at_the_limit(PagePool& pool, VmSpace& space, std::vector<Page*> pages) {
    const auto plus = [](void* at, std::uint64_t n) { return static_cast<std::byte*>(at) + n * k_page_size; };
    VmArea* const area = space.get_vm_area(64 * k_page_size, VmKind::sparse).value();
    void* const scattered = space.vmap(std::span{pages}.first(20)).value();
    void* const allocated = space.vmalloc(3 * k_page_size).value();
    void* const hidden = space.vmalloc(3 * k_page_size, {.unmapped = true}).value();
    void* const moment = space.vm_map_ram(std::span{pages}.first(3)).value();
    HARENA_HOLDS(space.map_pages(area, area->begin(), plus(area->begin(), 1), std::span{pages}.first(1)));

    const AllMappings all;
    // Whatever can be made of what is left is made; then nothing.
    Result<void> mapped;
    std::uint64_t done = 1;
    for (; done < 60 && mapped; done += mapped ? 1U : 0U)
        mapped = space.map_pages(area, plus(area->begin(), done), plus(area->begin(), done + 1),
                                 std::span{pages}.subspan(done, 1));
    HARENA_HOLDS(refused(mapped, ENOMEM, "vm.max_map_count"));
    HARENA_HOLDS(refused(space.map_pages(area, plus(area->begin(), 60), plus(area->begin(), 64),
                                         std::span{pages}.subspan(60, 4)),
                         ENOMEM, "vm.max_map_count"));
    HARENA_HOLDS(refused(space.vmap(std::span{pages}.first(9)), ENOMEM, "vm.max_map_count"));
    HARENA_HOLDS(refused(space.vmalloc(k_page_size), ENOMEM, "vm.max_map_count"));
    HARENA_HOLDS(refused(space.vm_map_ram(std::span{pages}.first(5)), ENOMEM, "vm.max_map_count"));
    HARENA_HOLDS(refused(space.ioremap(pool.fd(), 0, k_page_size), ENOMEM, "vm.max_map_count"));
    // All is as it was, and what is there can be unmapped.
    HARENA_HOLDS(space.vmallocinfo().value().find(fmt::format("pages={} sparse", done)) != std::string::npos);
    for (std::uint64_t i = 0; i < 64; ++i) HARENA_HOLDS(readable(plus(area->begin(), i)) == (i < done));
    HARENA_HOLDS(space.vfree(hidden));
    HARENA_HOLDS(!readable(hidden));
    HARENA_HOLDS(space.vunmap(scattered));
    HARENA_HOLDS(space.purge());
    HARENA_HOLDS(!readable(scattered));
    // There is room again: several at once are all mapped, or none of them is.
    std::array<Page*, 40> many{};
    std::ranges::copy(std::span{pages}.subspan(20, 40), many.begin());
    VmArea* const other = space.get_vm_area(64 * k_page_size, VmKind::sparse).value();
    const auto fits = [&](std::uint64_t count) {
        const auto made =
            space.map_pages(other, other->begin(), plus(other->begin(), count), std::span{many}.first(count));
        for (std::uint64_t i = 0; i < 64; ++i)
            if (readable(plus(other->begin(), i)) != (made && i < count)) return -1;
        if (!made) return 0;
        return space.unmap_pages(other, other->begin(), plus(other->begin(), count)) ? 1 : -1;
    };
    HARENA_HOLDS(fits(40) == 0);
    for (std::uint64_t count = 39; count > 10; --count) HARENA_HOLDS(fits(count) != -1);
    HARENA_HOLDS(fits(10) == 1);
    HARENA_HOLDS(space.vm_unmap_ram(moment, 3));
    HARENA_HOLDS(space.vfree(allocated));
    HARENA_HOLDS(space.free_vm_area(area));
    HARENA_HOLDS(space.free_vm_area(other));
    HARENA_HOLDS(space.purge());
    HARENA_HOLDS(space.statistics().vmas == 1 && space.statistics().free_bytes == space.bytes());
    void* const again = space.vmap(std::span{pages}.first(10)).value();
    HARENA_HOLDS(readable(again));
    HARENA_HOLDS(space.vunmap(again));
    return 0;
}

TEST(VmMappingLimit, of_the_kernel_is_an_error_that_names_it_and_everything_works_afterwards) {
    if constexpr (test::k_sanitizer) GTEST_SKIP() << "sanitizers need mappings of their own";
    const pid_t child = ::fork();
    if (child == 0) {
        int line = __LINE__;
        {
            auto pool = PagePool::create({.capacity = PageCount{4 * k_pageblock_pages}, .collapse = false, .nodes = 1});
            auto space = pool ? VmSpace::create({.bytes = 64 * k_mib, .pool = pool->get()})
                              : Result<std::unique_ptr<VmSpace>>{fail(ENOMEM, "")};
            Page* const block = (*pool)->alloc_pages(k_pageblock_order).value();
            std::vector<Page*> pages;
            for (std::uint32_t i = 0; i < 128; ++i) pages.push_back((*pool)->page((*pool)->pfn(block) + 2 * i));
            if (space) line = at_the_limit(**pool, **space, std::move(pages));
        }
        ::_exit(line == 0 ? 0 : (std::fprintf(stderr, "line %d does not hold\n", line), 1));
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace harena
