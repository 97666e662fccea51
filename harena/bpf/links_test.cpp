// SPDX-License-Identifier: Apache-2.0
// Links of 32 bits, as host and program see them: HARENA_LINK in testdata/links.bpf.c, ArenaPtr here.
#include "harena/bpf/testdata/links.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include <gtest/gtest.h>

#include "harena/arena/arena_heap.hpp"
#include "harena/arena/arena_ptr.hpp"
#include "harena/bpf/object.hpp"

namespace harena::bpf {
namespace {

class Links : public ::testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        auto object = Object::open(fmt::format("{}/{}.bpf.o", HARENA_BPF_TEST_OBJECTS, GetParam()));
        ASSERT_TRUE(object) << object.error().message();
        object_.emplace(*std::move(object));
        const auto loaded = object_->load(Engine::process());
        ASSERT_TRUE(loaded) << loaded.error().message();
        arena_ = object_->arena().value();
        head_ = reinterpret_cast<ArenaPtr<link_node>*>(object_->global<std::uint32_t>("head").value());
    }

    RunResult run(std::string_view program, std::uint32_t argument = 0) {
        std::array context{argument};
        return object_->program(program).value()->run(std::as_writable_bytes(std::span{context})).value();
    }

    std::optional<Object> object_;
    std::shared_ptr<Arena> arena_;
    ArenaPtr<link_node>* head_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Objects, Links, ::testing::Values("links", "links_v1", "links_o0"));

TEST_P(Links, a_program_walks_what_the_host_linked) {
    const auto heap = ArenaHeap::create(arena_).value();
    EXPECT_EQ(run("sum").return_value, 0U);
    for (std::uint32_t value = 1; value <= 500; ++value)
        head_->store(ArenaPtr<link_node>::to(*arena_, heap->make<link_node>(*head_, value).value()).value());
    EXPECT_EQ(run("sum").return_value, 500U * 501 / 2);
}

TEST_P(Links, the_host_walks_what_a_program_linked) {
    for (std::uint32_t value = 1; value <= 5; ++value) EXPECT_EQ(run("push", value).return_value, 0U);
    std::uint32_t expected = 5;
    for (const link_node* node = head_->get(*arena_); node != nullptr; node = node->next.get(*arena_))
        EXPECT_EQ(node->value, expected--);
    EXPECT_EQ(expected, 0U);
    EXPECT_EQ(*object_->global<link_node*>("first").value(), head_->get(*arena_))
        << "a pointer that was made from a link is a whole one";
    EXPECT_EQ(run("sum").return_value, 15U);
}

TEST_P(Links, a_link_to_nowhere_is_a_fault_that_the_program_survives) {
    const RunResult result = run("follow_any", 0xdead'0000);
    EXPECT_EQ(result.return_value, 0U);
    EXPECT_EQ(result.fault_count, 1U);
    EXPECT_EQ(ArenaPtr<link_node>::of_bits(0xdead'0000).get(*arena_), nullptr);
}

}  // namespace
}  // namespace harena::bpf
