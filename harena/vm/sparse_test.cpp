// SPDX-License-Identifier: Apache-2.0
// Each check of the sparse contract, in its order, and that a failed call leaves the area as it was.
#include <string>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/system_info.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;
using test::readable;
using test::refused;
using test::writable;

class Sparse : public test::VmTest {
protected:
    void SetUp() override {
        pages_ = take_pages(16);
        area_ = sparse(16);
    }
    void TearDown() override {
        space_.reset();
        give_pages(pages_);
    }
    Result<void> map(std::uint64_t first, std::span<Page* const> pages) {
        return space_->map_pages(area_, at(first), at(first + pages.size()), pages);
    }
    Result<void> unmap(std::uint64_t first, std::uint64_t end) {
        return space_->unmap_pages(area_, at(first), at(end));
    }
    std::byte* at(std::uint64_t page) { return area_->begin() + page * k_page_size; }
    /// "1" for each page of the area that is mapped, by its first byte, "." for others.
    std::string seen() {
        std::string text;
        for (std::uint64_t i = 0; i < 17; ++i)
            text += readable(at(i)) ? static_cast<char>('a' + byte_at(at(i)) - 1) : '.';
        return text;
    }
    std::span<Page* const> some(std::size_t first, std::size_t count) {
        return std::span{pages_}.subspan(first, count);
    }

    std::vector<Page*> pages_;
    VmArea* area_ = nullptr;
};

TEST_F(Sparse, pages_come_and_go_where_they_are_asked_for) {
    EXPECT_EQ(seen(), ".................");
    ASSERT_TRUE(map(3, some(0, 4)));
    ASSERT_TRUE(map(10, some(8, 1)));
    EXPECT_EQ(seen(), "...abcd...i......");
    EXPECT_TRUE(writable(at(3)));
    *at(3) = std::byte{1};
    ASSERT_TRUE(unmap(4, 5));
    EXPECT_EQ(seen(), "...a.cd...i......");
    ASSERT_TRUE(map(4, some(15, 1)));
    EXPECT_EQ(seen(), "...apcd...i......");
    ASSERT_TRUE(unmap(0, 16));  // holes are fine
    EXPECT_EQ(seen(), ".................");
    ASSERT_TRUE(unmap(0, 16));
}

TEST_F(Sparse, all_of_it_can_be_mapped_but_not_its_guard) {
    ASSERT_TRUE(map(0, some(0, 16)));
    EXPECT_EQ(seen(), "abcdefghijklmnop.");
}

TEST_F(Sparse, nothing_is_mapped_in_an_empty_range) {
    EXPECT_TRUE(map(5, {}));
    EXPECT_TRUE(map(16, {}));
    EXPECT_TRUE(unmap(7, 7));
}

// In the order of the checks, each with everything that is checked later wrong too.

TEST_F(Sparse, first_another_kind_of_area_is_EINVAL) {
    std::byte* const beyond = at(1 << 30);
    VmArea* const other = space_->get_vm_area(16 * k_page_size, VmKind::map).value();
    EXPECT_TRUE(refused(space_->map_pages(other, beyond, beyond, {}), EINVAL, "not a sparse area"));
    EXPECT_TRUE(refused(space_->unmap_pages(other, other->begin(), other->begin()), EINVAL, "not a sparse area"));
    EXPECT_TRUE(refused(space_->map_pages(nullptr, beyond, beyond, {}), EINVAL, "not a sparse area"));
    const auto foreign = make_space(pool_.get());
    EXPECT_TRUE(refused(foreign->map_pages(area_, at(0), at(1), some(0, 1)), EINVAL, "not a sparse area"));
}

TEST_F(Sparse, bounds_inside_of_pages_are_EINVAL) {
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0) + 1, at(1), some(0, 1)), EINVAL, "not addresses of pages"));
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0), at(1) - 1, some(0, 1)), EINVAL, "not addresses of pages"));
    EXPECT_TRUE(refused(space_->unmap_pages(area_, at(0) + 1, at(1)), EINVAL, "not addresses of pages"));
}

TEST_F(Sparse, second_more_pages_than_the_machine_has_are_E2BIG) {
    const std::uint64_t machine = os::memory_pages();
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0), at(machine + 1), {}), E2BIG, "the machine has"));
    EXPECT_TRUE(refused(space_->unmap_pages(area_, at(0), at(machine + 1)), E2BIG, "the machine has"));
    EXPECT_TRUE(refused(space_->map_pages(area_, at(5), at(4), {}), E2BIG, "the machine has"));  // a very long range
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0), at(machine), {}), ERANGE, "the area is from"));
}

TEST_F(Sparse, third_outside_of_the_area_is_ERANGE) {
    EXPECT_TRUE(refused(space_->map_pages(area_, at(16), at(17), {}), ERANGE, "the area is from"));  // the guard
    EXPECT_TRUE(refused(space_->map_pages(area_, at(15), at(17), {}), ERANGE, "the area is from"));
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0) - k_page_size, at(1), {}), ERANGE, "the area is from"));
    EXPECT_TRUE(refused(unmap(16, 17), ERANGE, "the area is from"));
    EXPECT_TRUE(refused(space_->map_pages(area_, nullptr, nullptr, {}), ERANGE, "the area is from"));
}

TEST_F(Sparse, as_many_pages_as_the_range_has) {
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0), at(2), some(0, 1)), EINVAL, "1 pages for a range of 2"));
    EXPECT_TRUE(refused(space_->map_pages(area_, at(0), at(2), some(0, 3)), EINVAL, "3 pages for a range of 2"));
}

TEST_F(Sparse, fourth_mapped_already_is_EBUSY) {
    ASSERT_TRUE(map(5, some(0, 1)));
    for (std::uint64_t first = 3; first <= 5; ++first) {
        std::vector<Page*> bad(3, nullptr);
        EXPECT_TRUE(refused(map(first, bad), EBUSY, "page 5 of the area is mapped already")) << first;
    }
    EXPECT_EQ(seen(), ".....a...........");
}

TEST_F(Sparse, fifth_a_null_page_is_ENOMEM_wherever_it_is) {
    for (std::size_t bad = 0; bad < 4; ++bad) {
        std::vector<Page*> pages(pages_.begin(), pages_.begin() + 4);
        pages[bad] = nullptr;
        EXPECT_TRUE(refused(map(2, pages), ENOMEM, fmt::format("page {} of 4 is null", bad)));
        EXPECT_EQ(seen(), ".................");
    }
}

TEST_F(Sparse, sixth_a_bad_page_is_EINVAL_wherever_it_is) {
    const auto other = make_pool();
    Page* const foreign = other->alloc_pages(Order{}).value();
    Page* const free = pool_->page(Pfn{4000});
    for (Page* const page : {foreign, free, reinterpret_cast<Page*>(8)})
        for (std::size_t bad = 0; bad < 4; ++bad) {
            std::vector<Page*> pages(pages_.begin(), pages_.begin() + 4);
            pages[bad] = page;
            EXPECT_TRUE(refused(map(2, pages), EINVAL, fmt::format("page {} of 4 is not an allocated page", bad)));
            EXPECT_EQ(seen(), ".................");
        }
    ASSERT_TRUE(other->free_pages(foreign, Order{}));
}

TEST_F(Sparse, a_system_call_that_fails_leaves_the_area_as_it_was) {
    ASSERT_TRUE(map(0, some(15, 1)));
    // No two of these adjoin: as many mappings as pages.
    const std::array<Page*, 4> scattered{pages_[3], pages_[9], pages_[1], pages_[12]};
    const std::uint64_t mappings = space_->statistics().vmas;
    std::uint64_t places = 0;
    for (;; ++places) {
        FailCall failing{Call::mmap, ENOMEM, places};
        {
            const ScopedFaultInjector injected{failing};
            const auto mapped = map(4, scattered);
            if (failing.seen() <= places) {
                EXPECT_TRUE(mapped);
                break;
            }
            EXPECT_TRUE(refused(mapped, ENOMEM, "vm.max_map_count"));
        }
        EXPECT_EQ(seen(), "p................") << places;
        EXPECT_EQ(space_->areas().value().at(0).pages, 1U);
        EXPECT_EQ(space_->statistics().vmas, mappings);
    }
    EXPECT_EQ(places, 4U);
    EXPECT_EQ(seen(), "p...djbm.........");
    {
        FailCall failing{Call::mmap, ENOMEM, 0, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(unmap(0, 16), ENOMEM, "cannot unmap"));
    }
    EXPECT_EQ(seen(), "p...djbm.........");
    EXPECT_TRUE(unmap(0, 16));
}

/// A kernel that has unmapped what an mmap was to replace before that fails: Linux before 6.12, or a driver's no.
class HoleInstead final : public os::FaultInjector {
public:
    HoleInstead(void* at, std::uint64_t bytes, int skip) noexcept : at_{at}, bytes_{bytes}, skip_{skip} {}
    int on_call(Call call) noexcept override {
        if (call != Call::mmap || skip_-- != 0) return 0;
        return ::munmap(at_, bytes_) == 0 ? ENOMEM : EFAULT;
    }

private:
    void* at_;
    std::uint64_t bytes_;
    int skip_;
};

TEST_F(Sparse, a_hole_that_cannot_be_made_counts_as_no_mapping) {
    Page* const block = pool_->alloc_pages(Order{2}).value();
    std::vector<Page*> run;
    for (std::uint32_t i = 0; i < 4; ++i) run.push_back(pool_->page(pool_->pfn(block) + i));
    ASSERT_TRUE(map(2, run));
    const std::uint64_t mappings = space_->statistics().vmas;
    {
        FailCall failing{Call::mmap, ENOMEM, 0, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(unmap(3, 4), ENOMEM, "cannot unmap"));
    }
    EXPECT_EQ(space_->statistics().vmas, mappings);
    ASSERT_TRUE(unmap(3, 4));
    EXPECT_EQ(space_->statistics().vmas, mappings + 2);
    ASSERT_TRUE(unmap(0, 16));
    ASSERT_TRUE(pool_->free_pages(block, Order{2}));
}

TEST_F(Sparse, a_gap_that_a_failed_system_call_leaves_is_reserved_again) {
    const std::array<Page*, 3> scattered{pages_[3], pages_[9], pages_[1]};
    for (int place = 0; place < 3; ++place) {
        HoleInstead failing{at(4 + static_cast<std::uint64_t>(place)), k_page_size, place};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(map(4, scattered), ENOMEM, "vm.max_map_count"));
        for (std::uint64_t page = 4; page < 7; ++page)
            EXPECT_TRUE(os::find_mapping(reinterpret_cast<std::uint64_t>(at(page)), k_page_size)) << place;
    }
}

TEST_F(Sparse, what_cannot_even_be_undone_is_inaccessible_and_gone_before_its_addresses_come_again) {
    const std::array<Page*, 4> scattered{pages_[3], pages_[9], pages_[1], pages_[12]};
    for (std::uint64_t skip = 0; skip < 4; ++skip) {
        FailCall failing{Call::mmap, ENOMEM, skip, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(map(4, scattered), ENOMEM, "vm.max_map_count"));
        EXPECT_EQ(seen(), ".................") << skip;
        EXPECT_EQ(space_->areas().value().at(0).pages, 0U);
    }
    ASSERT_TRUE(map(4, scattered));
    EXPECT_EQ(seen(), "....djbm.........");
    ASSERT_TRUE(unmap(0, 16));
    {
        FailCall failing{Call::mmap, ENOMEM, 2, FailCall::Repeat::always};
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(map(4, scattered), ENOMEM, "vm.max_map_count"));
    }
    std::byte* const fifth = at(4);
    ASSERT_TRUE(space_->free_vm_area(area_));
    EXPECT_EQ(space_->statistics().unpurged, 1U);
    ASSERT_TRUE(space_->purge());
    EXPECT_EQ(os::find_mapping(reinterpret_cast<std::uint64_t>(fifth), k_page_size)->find("harena"), std::string::npos);
}

TEST_F(Sparse, what_cannot_even_be_undone_is_gone_before_its_page_becomes_one_without_an_address) {
    enum class Then : std::uint8_t { purge, unmap, nothing };
    for (const Then then : {Then::purge, Then::unmap, Then::nothing}) {
        const auto small = make_pool(1);
        const auto space = make_space(small.get());
        Page* const block = small->alloc_pages(Order{2}).value();
        VmArea* const area = space->get_vm_area(4 * k_page_size, VmKind::sparse).value();
        const std::array<Page*, 2> scattered{block, small->page(small->pfn(block) + 2)};
        std::byte* const at = area->begin();
        ASSERT_TRUE(space->map_pages(area, plus(at, 3), plus(at, 4), std::span{scattered}.last(1)));
        {
            test::AtLimitAfter failing{1};
            const ScopedFaultInjector injected{failing};
            EXPECT_TRUE(refused(space->map_pages(area, at, plus(at, 2), scattered), ENOMEM, "vm.max_map_count"));
        }
        EXPECT_TRUE(readable(at));
        if (then != Then::nothing) {
            ASSERT_TRUE(then == Then::purge ? space->purge() : space->unmap_pages(area, at, plus(at, 2)));
            EXPECT_FALSE(readable(at));
            EXPECT_TRUE(readable(plus(at, 3)));  // what is mapped stays
        }
        ASSERT_TRUE(space->unmap_pages(area, plus(at, 3), plus(at, 4)));
        ASSERT_TRUE(small->free_pages(block, Order{2}));
        Page* const hidden = small->unmapped().unmapped_pages_alloc(k_pageblock_order).value();
        EXPECT_FALSE(readable(at));
        ASSERT_TRUE(small->free_pages(hidden, k_pageblock_order));
    }
}

TEST_F(Sparse, unmapped_pages_that_could_not_be_mapped_do_not_change_how_the_area_is_freed) {
    Page* const hidden = pool_->unmapped().unmapped_pages_alloc(Order{}).value();
    FailCall failing{Call::mmap, ENOMEM};
    {
        const ScopedFaultInjector injected{failing};
        EXPECT_TRUE(refused(map(4, std::array{hidden}), ENOMEM, "vm.max_map_count"));
    }
    ASSERT_TRUE(map(4, some(0, 1)));
    ASSERT_TRUE(space_->free_vm_area(area_));
    EXPECT_EQ(space_->statistics().unpurged, 1U);  // unmapped with others, not at once
    ASSERT_TRUE(pool_->free_pages(hidden, Order{}));
}

TEST_F(Sparse, each_check_comes_before_the_next_in_one_array) {
    const auto other = make_pool();
    Page* const foreign = other->alloc_pages(Order{}).value();
    EXPECT_TRUE(refused(map(2, std::array<Page*, 3>{foreign, pages_[0], nullptr}), ENOMEM, "page 2 of 3 is null"));
    ASSERT_TRUE(map(4, some(0, 1)));
    EXPECT_TRUE(refused(map(2, std::array<Page*, 3>{foreign, nullptr, pages_[1]}), EBUSY, "page 4"));
    EXPECT_EQ(seen(), "....a............");
    ASSERT_TRUE(other->free_pages(foreign, Order{}));
}

TEST_F(Sparse, adjoining_pages_are_one_mapping) {
    Page* const block = pool_->alloc_pages(Order{4}).value();
    std::vector<Page*> run;
    for (std::uint32_t i = 0; i < 16; ++i) run.push_back(pool_->page(pool_->pfn(block) + i));
    FailCall counting{Call::mmap, ENOMEM, ~0ULL};
    {
        const ScopedFaultInjector injected{counting};
        ASSERT_TRUE(map(0, run));
    }
    EXPECT_EQ(counting.seen(), 1U);
    ASSERT_TRUE(unmap(0, 16));
    ASSERT_TRUE(pool_->free_pages(block, Order{4}));
}

}  // namespace
}  // namespace harena
