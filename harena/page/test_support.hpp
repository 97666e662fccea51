// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/page/page_store.hpp"

/// What the tests of this layer share.
namespace harena::test {

// Sanitizers make mappings of their own, at times of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool k_sanitized = true;
#else
inline constexpr bool k_sanitized = false;
#endif

/// The value, or a failed test and null.
template <typename T>
std::unique_ptr<T> value_or_null(Result<std::unique_ptr<T>> result) {
    if (result) return std::move(*result);
    ADD_FAILURE() << result.error().message();
    return nullptr;
}

/// Whether there is no error; a failed test with its sentence if there is one.
template <typename T>
bool ok(const Result<T>& result) {
    if (!result) ADD_FAILURE() << result.error().message();
    return result.has_value();
}

/// A store with room for `pageblocks`, none of them there yet; its pages are not collapsed, which would be slow.
inline std::unique_ptr<PageStore> make_store(std::uint64_t pageblocks, unsigned nodes = 1) {
    return value_or_null(PageStore::create(
        {.direct_map = {.capacity = PageCount{pageblocks * k_pageblock_pages}, .collapse = false}, .nodes = nodes}));
}

inline bool is_zero(const std::byte* begin, std::uint64_t bytes) {
    return std::all_of(begin, begin + bytes, [](std::byte b) { return b == std::byte{0}; });
}

inline std::size_t open_descriptors() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) ++count;
    return count;
}

/// How many lines of /proc/self/maps have `text` in them.
inline std::size_t count_mappings(std::string_view text) {
    const auto file = os::read_file("/proc/self/maps");
    if (!file) return 0;
    std::string_view rest{reinterpret_cast<const char*>(file->data()), file->size()};
    std::size_t count = 0;
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        count += line.find(text) == std::string_view::npos ? 0U : 1U;
    }
    return count;
}

}  // namespace harena::test
