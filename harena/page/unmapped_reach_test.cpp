// SPDX-License-Identifier: Apache-2.0
// That an unmapped page is out of reach: tried by every address there is.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "harena/page/test_support.hpp"
#include "harena/page/unmapped_cache.hpp"

namespace harena {
namespace {

using Secret = std::array<std::uint64_t, 8>;

/// Bytes that are nowhere in memory but where they are written to: made word by word each time.
std::uint64_t secret_word(std::size_t i) {
    static volatile std::uint64_t seed = 0x9e37'79b9'7f4a'7c15;
    return (seed ^ (i * 0xff51'afd7'ed55'8ccd)) * 0xc4ce'b9fe'1a85'ec53;
}

bool begins_with_secret(const std::byte* at) {
    for (std::size_t i = 0; i < Secret{}.size(); ++i) {
        std::uint64_t word = 0;
        std::memcpy(&word, at + 8 * i, 8);
        if (word != secret_word(i)) return false;
    }
    return true;
}

class UnmappedReach : public testing::Test {
protected:
    void SetUp() override {
        for (const Order order : {Order{}, Order{4}, k_pageblock_order})
            for (int i = 0; i < 3; ++i) pages_.push_back(pool_->unmapped().unmapped_pages_alloc(order).value());
        mapped_ = pool_->alloc_pages(Order{}).value();
        for (Page* const page : pages_) write_secret(pool_->pfn(page));
        // And one that is free: in the cache, not zeroed yet.
        ASSERT_TRUE(pool_->unmapped().unmapped_pages_free(pages_.front()));
        mem_ = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
        ASSERT_GE(mem_, 0);
    }
    void TearDown() override {
        for (Page* const page : std::span{pages_}.subspan(1)) EXPECT_TRUE(pool_->unmapped().unmapped_pages_free(page));
        EXPECT_TRUE(pool_->free_pages(mapped_, Order{}));
        ::close(mem_);
    }

    void write_secret(Pfn pfn) {
        for (std::size_t i = 0; i < Secret{}.size(); ++i) {
            volatile std::uint64_t word = secret_word(i);
            EXPECT_EQ(::pwrite(pool_->fd(), const_cast<std::uint64_t*>(&word), 8,
                               static_cast<off_t>(byte_offset(pfn) + 8 * i)),
                      8);
            word = 0;
        }
    }
    std::byte* base() { return pool_->page_address(pool_->page(Pfn{0})); }

    std::unique_ptr<PagePool> pool_ = test::make_pool(PageCount{12 * k_pageblock_pages});
    std::vector<Page*> pages_;
    Page* mapped_ = nullptr;
    int mem_ = -1;
};

TEST_F(UnmappedReach, the_file_has_it) {
    std::array<std::byte, sizeof(Secret)> bytes{};
    for (Page* const page : pages_) {
        ASSERT_EQ(::pread(pool_->fd(), bytes.data(), bytes.size(), static_cast<off_t>(byte_offset(pool_->pfn(page)))),
                  static_cast<ssize_t>(bytes.size()));
        EXPECT_TRUE(begins_with_secret(bytes.data()));
    }
    bytes.fill(std::byte{0});
}

sigjmp_buf after_fault;
void on_fault(int) { siglongjmp(after_fault, 1); }

/// The word at `at`; none if the load faults.
[[gnu::noinline]] std::optional<std::uint64_t> load(const std::byte* at) {
    if (sigsetjmp(after_fault, 1) != 0) return std::nullopt;
    return *reinterpret_cast<const volatile std::uint64_t*>(at);
}

TEST_F(UnmappedReach, no_load_from_any_address_of_the_pool_finds_it) {
    struct sigaction before{};
    struct sigaction action{};
    action.sa_handler = &on_fault;
    ASSERT_EQ(::sigaction(SIGSEGV, &action, &before), 0);
    std::uint32_t readable = 0;
    for (std::uint32_t i = 0; i < pool_->capacity().value(); ++i) {
        const auto word = load(base() + i * k_page_size);
        readable += word ? 1U : 0U;
        if (word == secret_word(0)) ADD_FAILURE() << "page " << i;
    }
    ::sigaction(SIGSEGV, &before, nullptr);
    EXPECT_EQ(readable, k_pageblock_pages);  // the pageblock of the one page that is mapped
}

TEST_F(UnmappedReach, no_read_of_proc_self_mem_in_the_pool_finds_it) {
    std::array<std::byte, k_page_size> page{};
    std::uint32_t read = 0;
    for (std::uint32_t i = 0; i < pool_->capacity().value(); ++i) {
        const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(base() + i * k_page_size));
        if (::pread(mem_, page.data(), page.size(), at) != static_cast<ssize_t>(page.size())) continue;
        ++read;
        EXPECT_FALSE(begins_with_secret(page.data())) << i;
    }
    EXPECT_GE(read, k_pageblock_pages);
}

TEST_F(UnmappedReach, no_mapping_of_the_process_has_it) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer's shadow is too large to be searched";
#endif
    const auto maps = os::read_file("/proc/self/maps");
    ASSERT_TRUE(maps);
    std::vector<std::byte> chunk(k_mib);
    std::uint64_t searched = 0;
    bool control = false;  // that the search finds what can be found: in a page that is mapped
    write_secret(pool_->pfn(mapped_));
    std::string_view rest{reinterpret_cast<const char*>(maps->data()), maps->size()};
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        const char* const dash = std::from_chars(line.data(), line.data() + line.size(), begin, 16).ptr;
        std::from_chars(dash + 1, line.data() + line.size(), end, 16);
        for (std::uint64_t at = begin; at < end; at += chunk.size()) {
            const std::size_t wanted = std::min<std::uint64_t>(chunk.size(), end - at);
            const ssize_t got = ::pread(mem_, chunk.data(), wanted, static_cast<off_t>(at));
            if (got < static_cast<ssize_t>(sizeof(Secret))) continue;
            searched += static_cast<std::uint64_t>(got);
            for (std::size_t offset = 0; offset + sizeof(Secret) <= static_cast<std::size_t>(got); offset += 8) {
                if (!begins_with_secret(&chunk[offset])) continue;
                const std::uint64_t found = at + offset;
                if (found == reinterpret_cast<std::uint64_t>(pool_->page_address(mapped_))) {
                    control = true;
                    continue;
                }
                // What this test has read is in its own buffer.
                const auto own = reinterpret_cast<std::uint64_t>(chunk.data());
                EXPECT_TRUE(found >= own && found < own + chunk.size()) << fmt::format("{:#x} in {}", found, line);
            }
        }
    }
    EXPECT_TRUE(control);
    EXPECT_GT(searched, 2 * k_mib);
}

}  // namespace
}  // namespace harena
