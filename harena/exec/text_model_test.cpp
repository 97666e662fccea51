// SPDX-License-Identifier: Apache-2.0
// A shadow of all text: pieces never overlap, what was written stays, all else is traps, and the counters are exact.
#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "harena/exec/test_support.hpp"

namespace harena {
namespace {

using test::all_traps;
using test::ok;

constexpr int k_operations = test::k_sanitizer ? 60'000 : 1'000'000;

struct Shadow {
    std::uint64_t bytes = 0;
    std::vector<std::byte> contents;  // of what was written from the begin on; the rest is traps
};

/// What one thread has of a space.
class Model {
public:
    Model(TextSpace& space, unsigned seed) : space_{space}, random_{seed} {}

    void operate() {
        const std::uint64_t what = random_() % 100;
        const bool more = pieces_.size() < 3000 && used_ < 24 * k_mib;
        if (pieces_.size() < 20 || (what < 42 && more))
            allocate();
        else if (what < 45 && more)
            allocate_batch();
        else if (what < 70)
            poke();
        else if (what < 73)
            free_batch();
        else if (what < 75)
            retire();
        else
            free();
    }
    void free_all() {
        while (!pieces_.empty()) free();
    }
    [[nodiscard]] std::uint64_t pieces() const { return pieces_.size(); }
    [[nodiscard]] std::uint64_t used() const { return used_; }
    /// Once nobody uses the space any more.
    [[nodiscard]] bool all_retired_are_freed() const { return freed_->load() == retired_; }

private:
    using Pieces = std::map<std::byte*, Shadow>;

    std::uint64_t size() {
        const std::uint64_t kind = random_() % 1000;
        if (kind < 800) return 1 + random_() % 512;
        if (kind < 980) return 1 + random_() % 6000;
        if (kind < 998) return 1 + random_() % 100'000;
        return 1 + random_() % (3 * k_mib);
    }
    Pieces::iterator any() {
        auto piece = pieces_.lower_bound(space_.base() + random_() % space_.bytes());
        return piece == pieces_.end() ? pieces_.begin() : piece;
    }
    void add(void* text, std::uint64_t bytes) {
        auto* const at = static_cast<std::byte*>(text);
        EXPECT_TRUE(is_aligned(reinterpret_cast<std::uint64_t>(at), 16));
        EXPECT_TRUE(all_traps(at, align_up(bytes, 16))) << "fresh text";
        const auto after = pieces_.lower_bound(at);
        EXPECT_TRUE(after == pieces_.end() || at + bytes <= after->first);
        EXPECT_TRUE(after == pieces_.begin() || std::prev(after)->first + std::prev(after)->second.bytes <= at);
        pieces_.emplace(at, Shadow{.bytes = bytes, .contents = {}});
        used_ += bytes;
    }
    void allocate() {
        const std::uint64_t bytes = size();
        const std::uint64_t alignment = std::uint64_t{16} << (random_() % 16 == 0 ? random_() % 9 : 0);
        const auto text = space_.text_alloc(bytes, {.alignment = alignment});
        if (!ok(text)) return;
        EXPECT_TRUE(is_aligned(reinterpret_cast<std::uint64_t>(*text), alignment));
        add(*text, bytes);
    }
    void allocate_batch() {
        std::array<std::uint64_t, 8> sizes;
        for (std::uint64_t& bytes : sizes) bytes = 1 + random_() % 5000;
        std::array<void*, 8> texts{};
        if (!ok(space_.text_alloc_batch(sizes, texts))) return;
        std::vector<TextPoke> pokes;
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            add(texts[i], sizes[i]);
            pokes.push_back(
                {.dest = texts[i], .bytes = write(pieces_.find(static_cast<std::byte*>(texts[i])), sizes[i])});
        }
        EXPECT_TRUE(ok(space_.text_poke_batch(pokes)));
    }
    /// New contents of the first `bytes` of a piece, which the shadow keeps.
    std::span<const std::byte> write(Pieces::iterator piece, std::uint64_t bytes) {
        auto& contents = piece->second.contents;
        if (contents.size() < bytes) contents.resize(bytes, test::k_trap);
        const auto value = static_cast<std::byte>(random_());
        std::fill_n(contents.begin(), bytes, value);
        return std::span{contents}.first(bytes);
    }
    void poke() {
        const auto piece = any();
        const std::uint64_t bytes = 1 + random_() % std::min<std::uint64_t>(piece->second.bytes, 2000);
        EXPECT_TRUE(ok(space_.text_poke(piece->first, write(piece, bytes))));
    }
    void check(const Pieces::iterator piece) {
        const auto& [at, shadow] = *piece;
        EXPECT_TRUE(std::ranges::equal(std::span{at, shadow.contents.size()}, shadow.contents))
            << "what was written stays";
        EXPECT_TRUE(all_traps(at + shadow.contents.size(), shadow.bytes - shadow.contents.size()));
    }
    void remove(Pieces::iterator piece) {
        // Another thread may have the text already.
        used_ -= piece->second.bytes;
        pieces_.erase(piece);
    }
    void free() {
        const auto piece = any();
        check(piece);
        EXPECT_TRUE(ok(space_.text_free(piece->first)));
        remove(piece);
    }
    void free_batch() {
        std::vector<const void*> texts;
        auto piece = any();
        for (; piece != pieces_.end() && texts.size() < 8; ++piece) {
            check(piece);
            texts.push_back(piece->first);
        }
        EXPECT_TRUE(ok(space_.text_free_batch(texts)));
        for (const void* const text : texts) remove(pieces_.find(static_cast<std::byte*>(const_cast<void*>(text))));
    }
    void retire() {
        const auto piece = any();
        check(piece);
        // By this thread or, a moment later, by another that frees what is retired.
        EXPECT_TRUE(ok(space_.text_retire(piece->first, [count = freed_] { ++*count; })));
        ++retired_;
        remove(piece);
    }

    TextSpace& space_;
    std::mt19937_64 random_;
    Pieces pieces_;
    std::uint64_t used_ = 0;
    std::uint64_t retired_ = 0;
    std::shared_ptr<std::atomic<std::uint64_t>> freed_ = std::make_shared<std::atomic<std::uint64_t>>(0);
};

void expect_whole(TextSpace& space) {
    const TextStatistics s = space.statistics();
    EXPECT_EQ(s.pieces, 0U);
    EXPECT_EQ(s.used_bytes, 0U);
    EXPECT_EQ(s.internal_bytes, 0U);
    ASSERT_TRUE(ok(space.trim()));
    EXPECT_EQ(space.statistics().reserved_bytes, 0U);
    void* const all = space.text_alloc(space.bytes()).value();
    EXPECT_TRUE(all_traps(all, space.bytes()));
}

TEST(TextModel, million_operations_are_what_the_shadow_says) {
    const auto space = TextSpace::create({.max_bytes = 64 * k_mib}).value();
    Model model{*space, 1};
    for (int i = 0; i < k_operations && !testing::Test::HasFailure(); ++i) {
        model.operate();
        if (i % 1000 != 0) continue;
        const TextStatistics s = space->statistics();
        ASSERT_EQ(s.pieces, model.pieces());
        ASSERT_EQ(s.used_bytes, model.used());
        ASSERT_EQ(s.reserved_bytes, s.used_bytes + s.internal_bytes + s.free_bytes);
    }
    model.free_all();
    EXPECT_TRUE(model.all_retired_are_freed());
    expect_whole(*space);
}

TEST(TextModel, two_threads_have_each_their_own) {
    const auto space = TextSpace::create({.max_bytes = 128 * k_mib}).value();
    Model first{*space, 2};
    Model second{*space, 3};
    const auto work = [](Model& model) {
        for (int i = 0; i < k_operations / 8 && !testing::Test::HasFailure(); ++i) model.operate();
        model.free_all();
    };
    std::thread other{work, std::ref(first)};
    work(second);
    other.join();
    EXPECT_TRUE(first.all_retired_are_freed());
    EXPECT_TRUE(second.all_retired_are_freed());
    expect_whole(*space);
}

}  // namespace
}  // namespace harena
