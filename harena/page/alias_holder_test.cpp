// SPDX-License-Identifier: Apache-2.0
#include "harena/page/alias_holder.hpp"

#include <cerrno>

#include "harena/page/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

class CountingHolder final : public AliasHolder {
public:
    Result<void> drop_aliases() override {
        ++drops;
        if (refuses) return fail(ENOMEM, "cannot let go");
        return {};
    }
    int drops = 0;
    bool refuses = false;
};

TEST(AliasHolders, are_asked_once_for_all_that_has_left) {
    AliasHolders holders;
    CountingHolder holder;
    ASSERT_TRUE(holders.add(holder));
    ASSERT_TRUE(holders.drop(0));
    EXPECT_EQ(holder.drops, 0);
    ASSERT_TRUE(holders.drop(3));
    ASSERT_TRUE(holders.drop(2));
    ASSERT_TRUE(holders.drop(3));
    EXPECT_EQ(holder.drops, 1);
    ASSERT_TRUE(holders.drop(4));
    EXPECT_EQ(holder.drops, 2);
    holders.remove(holder);
    ASSERT_TRUE(holders.drop(5));
    EXPECT_EQ(holder.drops, 2);
}

TEST(AliasHolders, that_refuse_are_asked_again) {
    AliasHolders holders;
    CountingHolder holder;
    ASSERT_TRUE(holders.add(holder));
    holder.refuses = true;
    EXPECT_TRUE(test::refused(holders.drop(1), ENOMEM, "cannot let go"));
    EXPECT_TRUE(test::refused(holders.drop(1), ENOMEM, "cannot let go"));
    holder.refuses = false;
    EXPECT_TRUE(holders.drop(1));
    EXPECT_EQ(holder.drops, 3);
}

TEST(AliasHolders, of_a_pool_decide_whether_unmapped_pages_are_handed_out) {
    const auto pool = test::make_pool(PageCount{2 * k_pageblock_pages});
    PageAccount account{"hidden", PageCount{8}};
    CountingHolder holder;
    UnmappedCache& cache = pool->unmapped();
    ASSERT_TRUE(cache.alias_holders().add(holder));
    holder.refuses = true;
    EXPECT_TRUE(test::refused(cache.unmapped_pages_alloc(Order{}, {.account = &account}), ENOMEM, "cannot let go"));
    EXPECT_EQ(account.used(), PageCount{0});
    EXPECT_EQ(cache.statistics().allocated, PageCount{0});
    EXPECT_EQ(cache.statistics().free, PageCount{k_pageblock_pages});
    holder.refuses = false;
    const int before = holder.drops;
    Page* const first = cache.unmapped_pages_alloc(Order{}).value();
    Page* const second = cache.unmapped_pages_alloc(Order{}).value();
    EXPECT_EQ(holder.drops, before + 1);  // they left together
    Page* const third = cache.unmapped_pages_alloc(k_pageblock_order).value();
    EXPECT_EQ(holder.drops, before + 2);
    ASSERT_TRUE(pool->free_pages(first, Order{}));
    ASSERT_TRUE(pool->free_pages(second, Order{}));
    ASSERT_TRUE(pool->free_pages(third, k_pageblock_order));
    cache.alias_holders().remove(holder);
}

}  // namespace
}  // namespace harena
