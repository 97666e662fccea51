// SPDX-License-Identifier: Apache-2.0
// Built together with the layer's sources, at -O3 with link-time optimisation: the compiler sees all at once that
// nobody reads what is freed, and the zeros must be there all the same.
#include <array>
#include <cstring>

#include "harena/secret/secret_string.hpp"
#include "harena/secret/test_support.hpp"
#include "harena/secret/wipe.hpp"

namespace harena {
namespace {

class SecretWithLto : public test::SecretHeapTest {};

TEST_F(SecretWithLto, freed_secrets_of_all_sizes_read_zero) {
    for (const std::size_t bytes : {1U, 8U, 16U, 32U, 48U, 100U, 240U, 500U, 2016U, 3000U, 20'000U}) {
        auto* const at = static_cast<std::byte*>(heap_->alloc(bytes).value());
        std::memset(at, 0x5a, bytes);
        ASSERT_TRUE(heap_->free(at));
        EXPECT_TRUE(test::is_zero(at, bytes)) << bytes;
    }
}

TEST_F(SecretWithLto, strings_leave_no_characters_when_they_grow_and_end) {
    const std::byte* at = nullptr;
    {
        auto secret = SecretString::from(*heap_, "0123456789abcdef0123456789abcde").value();
        at = reinterpret_cast<const std::byte*>(secret.c_str());
        ASSERT_TRUE(secret.append("grow"));
        EXPECT_TRUE(test::is_zero(at, 32));
        at = reinterpret_cast<const std::byte*>(secret.c_str());
    }
    EXPECT_TRUE(test::is_zero(at, 35));
}

/// Fills and wipes a buffer of its own, and says where it was.
template <bool Wiped>
[[gnu::noinline]] const volatile std::byte* use_stack() {
    alignas(8) std::array<std::byte, 512> local;
    const volatile std::byte* volatile where = local.data();
    for (std::size_t i = 0; i < local.size(); ++i)
        *(static_cast<volatile std::byte*>(local.data()) + i) = std::byte{0x5a};
    if constexpr (Wiped) {
        wipe(local.data(), 200);
        wipe(local.data() + 200, 312);
    }
    return where;
}
/// How many bytes of `value` there are; calls nothing, so that the stack below stays as it is.
[[gnu::always_inline]] inline std::size_t count(const volatile std::byte* at, std::byte value) {
    std::size_t found = 0;
    for (std::size_t i = 0; i < 512; ++i) found += at[i] == value ? 1U : 0U;
    return found;
}

TEST(WipeWithLto, of_a_dying_local_buffer_is_not_dropped) {
    const std::size_t left = count(use_stack<false>(), std::byte{0x5a});
    const std::size_t after_wipe = count(use_stack<true>(), std::byte{0x5a});
    EXPECT_EQ(left, 512U) << "without a wipe, it is all still there";
    EXPECT_EQ(after_wipe, 0U);
}

}  // namespace
}  // namespace harena
