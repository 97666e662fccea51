// SPDX-License-Identifier: Apache-2.0
// Limits of the process: named before they bite. Each is set in a child, which has no way back.
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <vector>

#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::holds_in_child;
using test::ok;
using test::refused;
using test::returning;
using test::run;

bool set_limit(int resource, rlim_t value) {
    rlimit limit{};
    ::getrlimit(static_cast<__rlimit_resource_t>(resource), &limit);
    limit.rlim_cur = value;
    return ::setrlimit(static_cast<__rlimit_resource_t>(resource), &limit) == 0;
}

TEST(TextLimits, file_size_is_checked_when_a_space_is_made) {
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(set_limit(RLIMIT_FSIZE, 8 * k_mib));
        EXPECT_TRUE(refused(TextSpace::create({.max_bytes = 10 * k_mib}), EFBIG, "RLIMIT_FSIZE"));
        const auto space = TextSpace::create({.max_bytes = 8 * k_mib});
        ASSERT_TRUE(ok(space));
        void* const text = (*space)->text_alloc(16).value();
        EXPECT_TRUE(ok((*space)->text_poke(text, returning(1))));
        EXPECT_EQ(run(text), 1U);
    }));
}

TEST(TextLimits, file_size_that_is_lowered_later_gives_errors_and_no_signal) {
    EXPECT_TRUE(holds_in_child([] {
        test::catch_traps();
        const auto space = TextSpace::create({.max_bytes = 8 * k_mib}).value();
        void* const low = space->text_alloc(16).value();
        std::vector<void*> pieces;
        for (int i = 0; i < 4; ++i) {
            pieces.push_back(space->text_alloc(100'000).value());
            EXPECT_TRUE(ok(space->text_poke(pieces.back(), returning(1))));
        }
        ASSERT_TRUE(set_limit(RLIMIT_FSIZE, 150'000));
        EXPECT_TRUE(ok(space->text_poke(low, returning(2))));
        const auto code = returning(3);
        EXPECT_TRUE(refused(space->text_poke(pieces[3], code), EFBIG, "RLIMIT_FSIZE"));
        EXPECT_TRUE(refused(space->text_poke_batch(std::array{TextPoke{.dest = pieces[3], .bytes = code}}), EFBIG,
                            "RLIMIT_FSIZE"));
        EXPECT_TRUE(refused(space->text_free(pieces[3]), EFBIG, "RLIMIT_FSIZE"));
        EXPECT_TRUE(refused(space->text_patch(pieces[3], std::span{code}.first(5)), EFBIG, "RLIMIT_FSIZE"));
        EXPECT_TRUE(refused(space->text_alloc(4 * k_mib), EFBIG, "RLIMIT_FSIZE"));
        EXPECT_TRUE(ok(space->text_retire(pieces[3]))) << "it waits";
        EXPECT_TRUE(refused(space->reclaim(), EFBIG, "RLIMIT_FSIZE"));
        EXPECT_EQ(run(pieces[3]), 1U) << "still as it was";
        ASSERT_TRUE(set_limit(RLIMIT_FSIZE, RLIM_INFINITY));
        EXPECT_EQ(space->reclaim().value(), 1U);
        EXPECT_TRUE(test::traps(pieces[3]));
    }));
}

TEST(TextLimits, address_space_is_named) {
    if (test::k_sanitizer) GTEST_SKIP() << "a sanitizer has more addresses than any limit";
    EXPECT_TRUE(holds_in_child([] {
        ASSERT_TRUE(set_limit(RLIMIT_AS, 5 * k_gib / 2));
        EXPECT_TRUE(refused(TextSpace::create({.max_bytes = 2 * k_gib}), ENOMEM, "RLIMIT_AS"));
        EXPECT_TRUE(ok(TextSpace::create({.max_bytes = 16 * k_mib})));
    }));
}

TEST(TextLimits, space_that_is_full_names_max_bytes) {
    const auto space = TextSpace::create({.max_bytes = 2 * k_mib}).value();
    void* const text = space->text_alloc(k_mib + 16).value();
    EXPECT_TRUE(refused(space->text_alloc(k_mib), ENOMEM, "max_bytes"));
    EXPECT_TRUE(ok(space->text_free(text)));
    EXPECT_TRUE(ok(space->text_alloc(2 * k_mib)));
}

TEST(TextLimits, text_takes_few_mappings) {
    const auto space = TextSpace::create({.max_bytes = 64 * k_mib}).value();
    (void)space->text_alloc(40 * k_mib).value();
    EXPECT_EQ(test::count_mappings("harena:text"), 1U) << "blocks that adjoin are one mapping";
}

}  // namespace
}  // namespace harena
