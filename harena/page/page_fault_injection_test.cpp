// SPDX-License-Identifier: Apache-2.0
// Every system call of the layer fails in turn, at every place where it is made: an error that says so, nothing lost,
// and a pool that works afterwards.
#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harena/base/os/fault_injection.hpp"
#include "harena/page/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

using os::Call;
using os::FailCall;
using os::ScopedFaultInjector;

std::size_t descriptors() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) ++count;
    return count;
}

/// A life of a pool in which every part of the layer is used. Pages that cannot be had are not; what was had is given
/// back.
class Life {
public:
    void run() {
        auto made = PagePool::create({.capacity = PageCount{6 * k_pageblock_pages}, .nodes = 2});
        if (!note(made)) return;
        pool_ = *std::move(made);
        alloc(Order{}, false);
        alloc(k_max_order, false);
        alloc(Order{}, true);
        alloc(Order{3}, true);
        alloc(k_pageblock_order, true);
        for (int i = 0; i < 14; ++i) alloc(Order{6}, false);  // to the last pageblock
        give_back(3);
        alloc(Order{6}, true);
        (void)note(pool_->direct_map_statistics());
        (void)note(pool_->unmapped().flush());
        (void)note(pool_->unmapped().shrink(PageCount{100}));
        give_back(1);
        (void)note(pool_->unmapped().shrink(PageCount{600}));
        const std::uint64_t grown = pool_->statistics().grown.value();
        const auto trimmed = pool_->trim(pool_->capacity());
        partly_ = note(trimmed) && trimmed->value() < grown;
        EXPECT_EQ(pool_->statistics().allocated, PageCount{0});
    }

    /// With no call failing any more: everything is there, zero, and goes home.
    void expect_whole() {
        if (!pool_) return;
        std::vector<std::pair<Page*, Order>> all;
        for (int i = 0; i < 3; ++i) {
            auto page = pool_->alloc_pages(k_max_order);
            ASSERT_TRUE(page) << page.error().message();
            EXPECT_TRUE(test::is_zero(pool_->page_address(*page), bytes_of(k_max_order)));
            all.emplace_back(*page, k_max_order);
        }
        for (const auto& [page, order] : all) EXPECT_TRUE(pool_->free_pages(page, order));
        for (std::uint32_t pfn = 0; pfn < pool_->capacity().value(); pfn += k_pageblock_pages)
            EXPECT_EQ(pool_->unmapped_in_pageblock(Pfn{pfn}), 0U);
        EXPECT_EQ(pool_->trim(pool_->capacity()).value(), pool_->capacity());
        EXPECT_EQ(test::bytes_in_use(pool_->fd()), 0U);
    }

    /// An error, less done than was asked for, or a failure that is counted where no caller is waiting for it.
    [[nodiscard]] bool saw_failure() const {
        if (!errors_.empty() || partly_ || !pool_) return true;
        const UnmappedStatistics seen = pool_->unmapped().statistics();
        return seen.unmap_failures + seen.restore_failures + seen.zero_failures > 0;
    }
    [[nodiscard]] const std::vector<Error>& errors() const { return errors_; }

private:
    template <typename T>
    bool note(const Result<T>& result) {
        if (!result) errors_.push_back(result.error());
        return result.has_value();
    }
    void alloc(Order order, bool unmapped) {
        const auto page = unmapped ? pool_->unmapped().unmapped_pages_alloc(order) : pool_->alloc_pages(order);
        if (!note(page)) return;
        if (!unmapped) test::scribble(pool_->page_address(*page), bytes_of(order));
        blocks_.emplace_back(*page, order);
    }
    /// Every `step`-th block.
    void give_back(std::size_t step) {
        for (std::size_t i = 0; i < blocks_.size(); i += step) {
            EXPECT_TRUE(pool_->free_pages(blocks_[i].first, blocks_[i].second));
            blocks_[i].first = nullptr;
        }
        std::erase_if(blocks_, [](const auto& block) { return block.first == nullptr; });
    }

    std::unique_ptr<PagePool> pool_;
    std::vector<std::pair<Page*, Order>> blocks_;
    std::vector<Error> errors_;
    bool partly_ = false;
};

struct Failing {
    Call call;
    int error;
    bool tolerated;  // whether the layer can do without
    const char* name;
};

class PageLayerFails : public testing::TestWithParam<Failing> {};
INSTANTIATE_TEST_SUITE_P(
    Calls, PageLayerFails,
    testing::Values(Failing{Call::mmap, ENOMEM, false, "mmap"}, Failing{Call::madvise, ENOMEM, true, "madvise"},
                    Failing{Call::munmap, ENOMEM, true, "munmap"},
                    Failing{Call::memfd_create, EMFILE, false, "memfd_create"},
                    Failing{Call::ftruncate, EFBIG, false, "ftruncate"},
                    Failing{Call::add_seals, EPERM, false, "add_seals"},
                    Failing{Call::getrlimit, EFAULT, true, "getrlimit"},
                    Failing{Call::fallocate, ENOMEM, false, "fallocate"}, Failing{Call::pwrite, EIO, false, "pwrite"},
                    Failing{Call::membarrier, EPERM, true, "membarrier"}, Failing{Call::mbind, EINVAL, true, "mbind"},
                    Failing{Call::open, EMFILE, false, "open"}, Failing{Call::read, EIO, false, "read"}),
    [](const auto& parameter) { return parameter.param.name; });

TEST_P(PageLayerFails, with_an_error_and_loses_nothing) {
    const Failing& failing = GetParam();
    {
        Life first;  // what is done once for the process is done
        first.run();
        ASSERT_TRUE(first.errors().empty()) << first.errors()[0].message();
    }
    for (const auto repeat : {FailCall::Repeat::once, FailCall::Repeat::always}) {
        const std::size_t descriptors_before = descriptors();
        std::uint64_t places = 0;
        for (bool made = true; made; ++places) {
            FailCall injector{failing.call, failing.error, places, repeat};
            {
                Life life;
                {
                    const ScopedFaultInjector scope{injector};
                    life.run();
                }
                made = injector.seen() > places;
                // A call that fails once may be made up for by another way to the same end.
                if (made && !failing.tolerated && repeat == FailCall::Repeat::always) {
                    EXPECT_TRUE(life.saw_failure()) << places;
                }
                if (!made) {
                    EXPECT_TRUE(life.errors().empty()) << life.errors()[0].message();
                }
                for (const Error& error : life.errors()) EXPECT_GT(error.message().size(), 20U);
                life.expect_whole();
            }
            EXPECT_EQ(descriptors(), descriptors_before) << places;
        }
        EXPECT_GT(places, 1U) << "the call is made at all";
    }
}

}  // namespace
}  // namespace harena
