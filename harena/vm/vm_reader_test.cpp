// SPDX-License-Identifier: Apache-2.0
// The safe reader, over all of a space, while another thread maps and unmaps: no signal, and nothing of a page that is
// somebody else's by now.
#include <atomic>
#include <random>
#include <thread>

#include "harena/page/unmapped_cache.hpp"
#include "harena/vm/test_support.hpp"

namespace harena {
namespace {

using test::ok;
using test::refused;

class VmRead : public test::VmTest {
protected:
    std::vector<std::byte> read(const void* at, std::uint64_t bytes) {
        std::vector<std::byte> out(bytes, std::byte{0xee});
        EXPECT_TRUE(ok(space_->read(out.data(), at, bytes)));
        return out;
    }
    static bool all(std::span<const std::byte> bytes, int value) {
        return std::ranges::all_of(bytes, [&](std::byte b) { return std::to_integer<int>(b) == value; });
    }
};

TEST_F(VmRead, finds_what_is_mapped_and_zeros_elsewhere) {
    const auto pages = take_pages(3);
    std::byte* const mapped = static_cast<std::byte*>(space_->vmap(pages).value());  // guard at page 3
    VmArea* const area = sparse(4);                                                  // at page 4
    ASSERT_TRUE(space_->map_pages(area, area->begin(), plus(area->begin(), 3), pages));
    void* const moment = space_->vm_map_ram(std::span{pages}.first(2)).value();
    const auto all_of_it = read(space_->base(), 16 * k_page_size);
    const auto page = [&](std::size_t n) { return std::span{all_of_it}.subspan(n * k_page_size, k_page_size); };
    for (std::size_t n = 0; n < 3; ++n) EXPECT_TRUE(all(page(n), static_cast<int>(n + 1)));
    for (std::size_t n = 3; n < 9; ++n) EXPECT_TRUE(all(page(n), 0)) << n;  // the guard and the sparse area
    EXPECT_TRUE(all(read(moment, k_page_size), 1));
    EXPECT_TRUE(all(read(plus(moment, 1), k_page_size), 2));
    ASSERT_TRUE(space_->vm_unmap_ram(moment, 2));
    EXPECT_TRUE(all(read(moment, 2 * k_page_size), 0));
    // From the inside of one page to that of another.
    const auto part = read(mapped + k_page_size - 10, 20);
    EXPECT_TRUE(all(std::span{part}.first(10), 1));
    EXPECT_TRUE(all(std::span{part}.subspan(10), 2));
    ASSERT_TRUE(space_->vunmap(mapped));
    EXPECT_TRUE(all(read(mapped, 3 * k_page_size), 0));  // although it is still mapped
    space_.reset();
    give_pages(pages);
}

TEST_F(VmRead, reads_what_has_no_other_address_and_nothing_of_devices) {
    auto* const at = static_cast<std::byte*>(space_->vmalloc(k_page_size, {.unmapped = true}).value());
    std::memset(at, 9, k_page_size);
    EXPECT_TRUE(all(read(at, k_page_size), 9));
    const void* const device = space_->ioremap(pool_->fd(), 0, k_page_size).value();
    EXPECT_TRUE(all(read(device, k_page_size), 0));
}

TEST_F(VmRead, reads_nothing_of_a_page_that_its_owner_freed_while_it_was_mapped) {
    const auto pages = take_pages(2);
    void* const at = space_->vmap(pages).value();
    ASSERT_TRUE(pool_->free_pages(pages[0], Order{}));
    EXPECT_TRUE(all(read(at, k_page_size), 0));
    EXPECT_TRUE(all(read(plus(at, 1), k_page_size), 2));
    ASSERT_TRUE(space_->vunmap(at));
    give_pages(std::span{pages}.last(1));
}

TEST_F(VmRead, is_of_the_space_only) {
    std::byte byte{};
    EXPECT_TRUE(refused(space_->read(&byte, space_->base() - 1, 1), ERANGE, "not in the space"));
    EXPECT_TRUE(refused(space_->read(&byte, space_->base() + space_->bytes(), 1), ERANGE, "not in the space"));
    EXPECT_TRUE(refused(space_->read(&byte, space_->base(), space_->bytes() + 1), ERANGE, "not in the space"));
    EXPECT_TRUE(refused(space_->read(&byte, space_->base() + 1, ~0ULL), ERANGE, "not in the space"));
    EXPECT_TRUE(refused(space_->read(&byte, nullptr, 1), ERANGE, "not in the space"));
    EXPECT_TRUE(ok(space_->read(&byte, space_->base() + space_->bytes(), 0)));
}

TEST_F(VmRead, never_meets_a_page_that_was_freed) {
    constexpr int k_poison = 0xdd;
    constexpr std::uint64_t k_pages = 2048;
    space_ = make_space(pool_.get(), k_pages * k_page_size);
    const auto always = take_pages(8);
    void* const always_mapped = space_->vmap(always).value();
    std::atomic<bool> ends{false};
    std::uint64_t mapped_pages_read = 0;
    std::jthread reader{[&] {
        std::mt19937 random{5};
        std::vector<std::byte> out(k_pages * k_page_size);
        for (int i = 0; i < 100 || !ends.load(); ++i) {
            const bool whole = random() % 50 == 0;
            const std::uint64_t first = whole ? 0 : random() % 64 * k_page_size + random() % k_page_size;
            const std::uint64_t bytes = whole ? space_->bytes() : 1 + random() % (20 * k_page_size);
            ASSERT_TRUE(ok(space_->read(out.data(), space_->base() + first, bytes)));
            for (std::uint64_t k = 0; k < bytes; k += 512) {
                ASSERT_NE(std::to_integer<int>(out[k]), k_poison) << first + k;
                mapped_pages_read += out[k] == std::byte{0} ? 0U : 1U;
            }
        }
    }};
    std::mt19937 random{6};
    constexpr int k_rounds = test::k_sanitizer ? 2'000 : 20'000;
    for (int round = 0; round < k_rounds; ++round) {
        const std::size_t count = 1 + random() % 6;
        std::vector<Page*> pages = take_pages(count);  // filled with 1, 2, …
        switch (random() % 4) {
            case 0: {
                void* const at = space_->vmap(pages).value();
                ASSERT_TRUE(space_->vunmap(at));
                break;
            }
            case 1: {
                void* const at = space_->vm_map_ram(pages).value();
                ASSERT_TRUE(space_->vm_unmap_ram(at, count));
                break;
            }
            case 2: {
                VmArea* const area = sparse(count);
                ASSERT_TRUE(space_->map_pages(area, area->begin(), plus(area->begin(), count), pages));
                ASSERT_TRUE(space_->free_vm_area(area));
                break;
            }
            default: {
                void* const at = space_->vzalloc(count * k_page_size, {.unmapped = random() % 2 == 0}).value();
                ASSERT_TRUE(space_->vfree(at));
            }
        }
        // Nobody may read this: the page is not mapped for anybody but us.
        for (Page* const page : pages) std::memset(pool_->page_address(page), k_poison, k_page_size);
        give_pages(pages);
    }
    ends = true;
    reader.join();
    EXPECT_GT(mapped_pages_read, 0U);
    ASSERT_TRUE(space_->vunmap(always_mapped));
    give_pages(always);
}

}  // namespace
}  // namespace harena
