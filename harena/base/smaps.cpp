// SPDX-License-Identifier: Apache-2.0
#include "harena/base/smaps.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "harena/base/os/file.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

namespace {

/// The decimal number after the spaces of a line of smaps, in KiB.
std::uint64_t kib_of(std::string_view text) noexcept {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    std::uint64_t value = 0;
    (void)std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

}  // namespace

Result<MappedBytes> mapped_bytes(const std::byte* at, std::uint64_t bytes) {
    const auto text = os::read_file("/proc/self/smaps");
    if (!text) return os::fail_with(text.error(), "/proc/self/smaps cannot be read");
    MappedBytes out;
    const auto begin = reinterpret_cast<std::uint64_t>(at);
    bool ours = false;
    std::string_view rest{reinterpret_cast<const char*>(text->data()), text->size()};
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        const auto value_of = [&](std::string_view key) -> std::uint64_t {
            return ours && line.starts_with(key) ? kib_of(line.substr(key.size())) * k_kib : 0;
        };
        std::uint64_t from = 0;
        std::uint64_t to = 0;
        const char* const end = line.data() + line.size();
        const auto parsed = std::from_chars(line.data(), end, from, 16);
        if (parsed.ptr != end && *parsed.ptr == '-') {  // "begin-end perms …"
            std::from_chars(parsed.ptr + 1, end, to, 16);
            // A reservation may be joined with others beside it.
            ours = from < begin + bytes && to > begin;
            out.vmas += ours ? 1U : 0U;
        }
        const std::uint64_t huge =
            value_of("ShmemPmdMapped:") + value_of("Shared_Hugetlb:") + value_of("Private_Hugetlb:");
        out.bytes_2m += huge;
        out.bytes_4k += value_of("Rss:");
        if (!line.starts_with("Shared_Hugetlb:") && !line.starts_with("Private_Hugetlb:")) out.bytes_4k -= huge;
    }
    return out;
}

}  // namespace harena
