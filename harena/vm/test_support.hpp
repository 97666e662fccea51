// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/fault_injection.hpp"
#include "harena/base/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena::test {

/// A space with a pool.
class VmTest : public testing::Test {
protected:
    static constexpr std::uint64_t k_space_bytes = 256 * k_mib;

    static std::unique_ptr<PagePool> make_pool(std::uint64_t pageblocks = 16) {
        auto pool =
            PagePool::create({.capacity = PageCount{pageblocks * k_pageblock_pages}, .collapse = false, .nodes = 1});
        EXPECT_TRUE(pool) << pool.error().message();
        return pool ? std::move(*pool) : nullptr;
    }
    static std::unique_ptr<VmSpace> make_space(PagePool* pool, std::uint64_t bytes = k_space_bytes) {
        auto space = VmSpace::create({.bytes = bytes, .pool = pool});
        EXPECT_TRUE(space) << space.error().message();
        return space ? std::move(*space) : nullptr;
    }
    /// Single pages of the pool, the n-th filled with byte n + 1.
    std::vector<Page*> take_pages(std::size_t count) {
        std::vector<Page*> pages;
        for (std::size_t i = 0; i < count; ++i) {
            pages.push_back(pool_->alloc_pages(Order{}).value());
            std::memset(pool_->page_address(pages.back()), static_cast<int>(i + 1), k_page_size);
        }
        return pages;
    }
    void give_pages(std::span<Page* const> pages) {
        for (Page* const page : pages) EXPECT_TRUE(pool_->free_pages(page, page->order()));
    }
    static int byte_at(const void* at) { return std::to_integer<int>(*static_cast<const volatile std::byte*>(at)); }
    static std::byte* plus(void* at, std::uint64_t pages) { return static_cast<std::byte*>(at) + pages * k_page_size; }
    VmArea* sparse(std::uint64_t pages) { return space_->get_vm_area(pages * k_page_size, VmKind::sparse).value(); }

    std::unique_ptr<PagePool> pool_ = make_pool();
    std::unique_ptr<VmSpace> space_ = make_space(pool_.get());
};

/// At the limit of mappings, all of a sudden: after some calls of mmap, nothing can be mapped or protected.
class AtLimitAfter final : public os::FaultInjector {
public:
    explicit AtLimitAfter(int skip) noexcept : skip_{skip} {}
    int on_call(os::Call call) noexcept override {
        if (call == os::Call::mmap) return skip_-- > 0 ? 0 : ENOMEM;
        return call == os::Call::mprotect ? ENOMEM : 0;
    }

private:
    int skip_;
};

/// Does something before the first call of a kind, which fails with what that returns.
class AtFirst final : public os::FaultInjector {
public:
    AtFirst(os::Call call, std::function<int()> does) : call_{call}, does_{std::move(does)} {}
    int on_call(os::Call call) noexcept override { return call == call_ && !done_.exchange(true) ? does_() : 0; }

private:
    os::Call call_;
    std::function<int()> does_;
    std::atomic<bool> done_{false};
};

}  // namespace harena::test
