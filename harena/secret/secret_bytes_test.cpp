// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_bytes.hpp"

#include <cerrno>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "harena/secret/secret_resource.hpp"
#include "harena/secret/secret_string.hpp"
#include "harena/secret/test_support.hpp"

namespace harena {
namespace {

using test::is_zero;
using test::Pattern;
using test::refused;

template <typename T>
concept Streams = requires(std::ostream& stream, const T& value) { stream << value; };

static_assert(!std::is_copy_constructible_v<SecretBytes> && !std::is_copy_assignable_v<SecretBytes>);
static_assert(!std::is_copy_constructible_v<SecretString> && !std::is_copy_assignable_v<SecretString>);
static_assert(std::is_nothrow_move_constructible_v<SecretBytes> && std::is_nothrow_move_assignable_v<SecretString>);
static_assert(!fmt::is_formattable<SecretBytes>::value && !fmt::is_formattable<SecretString>::value);
static_assert(!Streams<SecretBytes> && !Streams<SecretString>);
static_assert(!std::is_convertible_v<SecretString, std::string_view> &&
              !std::is_convertible_v<SecretString, std::string>);

class SecretBytesTest : public test::SecretHeapTest {};

TEST_F(SecretBytesTest, own_their_secret_and_free_it) {
    {
        const SecretBytes bytes = SecretBytes::create(*heap_, 32).value();
        EXPECT_TRUE(is_zero(bytes.data(), 32));
        EXPECT_EQ(heap_->statistics().live, 1U);
    }
    EXPECT_EQ(heap_->statistics().live, 0U);
}

TEST_F(SecretBytesTest, moves_leave_nothing_and_copies_are_apart) {
    SecretBytes a = SecretBytes::create(*heap_, 32).value();
    Pattern{1}.fill(a.data(), 32);
    SecretBytes b{std::move(a)};
    EXPECT_TRUE(a.empty());
    EXPECT_EQ(a.data(), nullptr);
    const SecretBytes c = b.copy().value();
    EXPECT_NE(b.data(), c.data());
    EXPECT_TRUE(b == c);
    b.data()[31] ^= std::byte{1};
    EXPECT_FALSE(b == c);
    EXPECT_TRUE(SecretBytes{} == SecretBytes{});
    EXPECT_TRUE(SecretBytes{}.copy().value().empty());
}

TEST_F(SecretBytesTest, growth_leaves_no_copy_behind) {
    SecretBytes bytes = SecretBytes::create(*heap_, 100).value();
    Pattern{1}.fill(bytes.data(), 100);
    const std::byte* const old = bytes.data();
    ASSERT_TRUE(bytes.resize(1000));
    EXPECT_TRUE(Pattern{1}.is_at(bytes.data(), 100));
    EXPECT_TRUE(is_zero(bytes.data() + 100, 900));
    EXPECT_TRUE(is_zero(old, 100));
    ASSERT_TRUE(bytes.resize(10));
    EXPECT_TRUE(Pattern{1}.is_at(bytes.data(), 10));
    ASSERT_TRUE(bytes.resize(0));
    EXPECT_TRUE(bytes.empty());
    EXPECT_EQ(heap_->statistics().live, 0U);
    ASSERT_TRUE(bytes.resize(5));
    EXPECT_TRUE(refused(SecretBytes{}.resize(5), EINVAL, "without a heap"));
}

TEST_F(SecretBytesTest, growth_that_fails_changes_nothing) {
    SecretBytes bytes = SecretBytes::create(*heap_, 8).value();
    Pattern{1}.fill(bytes.data(), 8);
    EXPECT_TRUE(refused(bytes.resize(2 * k_gib), ENOMEM, "capacity"));
    EXPECT_EQ(bytes.size(), 8U);
    EXPECT_TRUE(Pattern{1}.is_at(bytes.data(), 8));
}

class SecretStringTest : public test::SecretHeapTest {};

TEST_F(SecretStringTest, does_what_a_string_does) {
    SecretString secret{*heap_};
    std::string model;
    EXPECT_STREQ(secret.c_str(), "");
    std::uint32_t state = 1;
    for (int i = 0; i < 3000; ++i) {
        state = state * 1664525 + 1013904223;
        const std::string piece(state >> 24 & 15, static_cast<char>('a' + (state >> 16 & 15)));
        switch (state >> 29) {
            case 0:
                secret.clear();
                model.clear();
                break;
            case 1:
                if (!model.empty()) {
                    secret.pop_back();
                    model.pop_back();
                }
                break;
            case 2:
                ASSERT_TRUE(secret.push_back('x'));
                model.push_back('x');
                break;
            case 3:
                ASSERT_TRUE(secret.append(secret.view()));  // its own characters
                model += std::string{model};
                if (model.size() > 5000) {
                    secret.clear();
                    model.clear();
                }
                break;
            default:
                ASSERT_TRUE(secret.append(piece));
                model += piece;
        }
        ASSERT_EQ(secret.size(), model.size());
        ASSERT_TRUE(secret.equals(model));
        ASSERT_STREQ(secret.c_str(), model.c_str());
    }
    EXPECT_LE(heap_->statistics().live, 1U);
}

TEST_F(SecretStringTest, growth_and_shortening_leave_no_characters) {
    SecretString secret = SecretString::from(*heap_, "hunter2").value();
    const char* const old = secret.c_str();
    ASSERT_TRUE(secret.reserve(100));
    EXPECT_NE(secret.c_str(), old);
    EXPECT_TRUE(is_zero(reinterpret_cast<const std::byte*>(old), 8));
    const char* const now = secret.c_str();
    ASSERT_TRUE(secret.append(std::string(90, 'x')));
    EXPECT_EQ(secret.c_str(), now) << "there was room";
    secret.pop_back();
    EXPECT_EQ(now[96], '\0');
    secret.clear();
    EXPECT_TRUE(is_zero(reinterpret_cast<const std::byte*>(now), 100));
}

TEST_F(SecretStringTest, moved_from_is_empty_and_can_be_used) {
    SecretString a = SecretString::from(*heap_, "one").value();
    SecretString b{std::move(a)};
    EXPECT_TRUE(a.empty());
    ASSERT_TRUE(a.append("two"));
    EXPECT_FALSE(a == b);
    const SecretString c = b.copy().value();
    EXPECT_TRUE(b == c);
    a = std::move(b);
    EXPECT_TRUE(a.equals("one"));
    EXPECT_FALSE(a.equals("on"));
}

class SecretResourceTest : public test::SecretHeapTest {
protected:
    [[nodiscard]] bool is_secret(const void* at) const { return heap_->size_of(at) != 0; }
};

TEST_F(SecretResourceTest, containers_have_their_elements_in_the_heap_and_leave_nothing_when_they_grow) {
    SecretResource resource{*heap_};
    {
        std::pmr::vector<std::uint64_t> numbers{&resource};
        std::vector<std::pair<const std::byte*, std::size_t>> places;
        for (std::uint64_t i = 0; i < 2000; ++i) {
            numbers.push_back(~i);
            if (places.empty() || places.back().first != reinterpret_cast<const std::byte*>(numbers.data()))
                places.emplace_back(reinterpret_cast<const std::byte*>(numbers.data()), numbers.capacity() * 8);
        }
        EXPECT_TRUE(is_secret(numbers.data()));
        EXPECT_GT(places.size(), 5U);
        // What was left is zero, unless it is a key or a canary of what came after: look at slots only.
        for (std::size_t i = 0; i + 1 < places.size() && places[i].second <= 1024; ++i)
            EXPECT_TRUE(is_zero(places[i].first, places[i].second));
        std::pmr::map<int, std::pmr::string> map{&resource};
        for (int i = 0; i < 300; ++i) map[i] = std::string(100, 'x');
        EXPECT_TRUE(is_secret(map[7].data()));
        map.clear();
        EXPECT_EQ(heap_->statistics().live, 1U);
    }
    EXPECT_EQ(heap_->statistics().live, 0U);
}

TEST_F(SecretResourceTest, any_alignment_and_size_is_served_and_none_left_is_bad_alloc) {
    SecretResource resource{*heap_};
    std::pmr::memory_resource& any = resource;
    for (const std::size_t alignment : {1U, 8U, 16U, 64U, 4096U}) {
        void* const at = any.allocate(0, alignment);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % alignment, 0U);
        any.deallocate(at, 0, alignment);
    }
    EXPECT_THROW((void)any.allocate(2 * k_gib), std::bad_alloc);
    EXPECT_THROW((void)any.allocate(1, 8192), std::bad_alloc);
}

TEST_F(SecretResourceTest, resources_of_one_heap_are_equal) {
    const auto other = SecretHeap::create().value();
    SecretResource a{*heap_};
    SecretResource b{*heap_};
    SecretResource c{*other};
    EXPECT_TRUE(a == b);
    EXPECT_FALSE(a == c);
    EXPECT_FALSE(a == *std::pmr::new_delete_resource());
}

}  // namespace
}  // namespace harena
