// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/proc_maps.hpp"

#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <vector>

#include "harena/base/os/inspect.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena::tool {

namespace {

// What is longer is cut: no line that is needed is.
constexpr std::size_t k_max_line = 8 * k_kib;

/// Takes a number off the front of `text`, and the character `after` it.
bool take_number(std::string_view& text, int base, char after, std::uint64_t& number) noexcept {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
    if (error != std::errc{} || end == text.data() + text.size() || *end != after) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()) + 1);
    return true;
}

/// Reads a file line by line.
class Lines {
public:
    explicit Lines(os::FileDescriptor file) : file_{std::move(file)}, buffer_(64 * k_kib) {}

    /// False at the end.
    os::SysResult<bool> next(std::string& line) {
        line.clear();
        for (;;) {
            if (at_ == filled_) {
                const auto got = os::pread(file_.get(), buffer_.data(), buffer_.size(), offset_);
                if (!got && got.error().code == EINTR) continue;
                if (!got) return std::unexpected{got.error()};
                if (*got == 0) return !line.empty();
                at_ = 0;
                filled_ = *got;
                offset_ += *got;
            }
            const std::string_view rest{buffer_.data() + at_, filled_ - at_};
            const std::size_t length = std::min(rest.find('\n'), rest.size());
            line += rest.substr(0, std::min(length, k_max_line - line.size()));
            at_ += length;
            if (length == rest.size()) continue;
            ++at_;
            return true;
        }
    }

private:
    os::FileDescriptor file_;
    std::vector<char> buffer_;
    std::size_t at_ = 0;
    std::size_t filled_ = 0;
    std::uint64_t offset_ = 0;
};

}  // namespace

std::optional<Mapping> parse_mapping(std::string_view line) {
    // "begin-end rwxs offset major:minor inode      path"
    Mapping mapping;
    std::uint64_t major = 0;
    std::uint64_t minor = 0;
    if (!take_number(line, 16, '-', mapping.begin) || !take_number(line, 16, ' ', mapping.end)) return std::nullopt;
    if (mapping.begin >= mapping.end || !is_aligned(mapping.begin | mapping.end, k_page_size)) return std::nullopt;
    if (line.size() < 5 || line[4] != ' ') return std::nullopt;
    mapping.accessible = !line.starts_with("---");
    mapping.shared = line[3] == 's';
    line.remove_prefix(5);
    if (!take_number(line, 16, ' ', mapping.offset) || !take_number(line, 16, ':', major) ||
        !take_number(line, 16, ' ', minor) || !take_number(line, 10, ' ', mapping.inode))
        return std::nullopt;
    mapping.device = makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor));
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    mapping.path = line;
    return mapping;
}

void parse_detail(std::string_view line, Mapping& mapping) noexcept {
    constexpr std::array<std::string_view, 5> k_huge{"AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
                                                     "Shared_Hugetlb:", "Private_Hugetlb:"};
    const auto key = std::ranges::find_if(k_huge, [&](std::string_view k) { return line.starts_with(k); });
    if (key == k_huge.end()) return;
    line.remove_prefix(key->size());
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    std::uint64_t kib = 0;
    if (!take_number(line, 10, ' ', kib)) return;
    mapping.huge_bytes = std::min(mapping.bytes(), mapping.huge_bytes + std::min(kib, mapping.bytes()) * k_kib);
}

os::SysResult<void> for_each_mapping(const std::string& folder, const std::function<void(const Mapping&)>& visit) {
    // smaps has the lines of maps, and more; not every kernel is built with it.
    auto file = os::open_for_reading(folder + "/smaps");
    if (!file && file.error().code == ENOENT) file = os::open_for_reading(folder + "/maps");
    if (!file) return std::unexpected{file.error()};
    Lines lines{*std::move(file)};
    std::string line;
    std::optional<Mapping> mapping;
    for (;;) {
        const auto more = lines.next(line);
        // A process that ends while it is looked at has no memory any more.
        if (!more && more.error().code != ESRCH) return std::unexpected{more.error()};
        auto next = more && *more ? parse_mapping(line) : std::nullopt;
        if (mapping && (next || !more || !*more)) visit(*mapping);
        if (!more || !*more) return {};
        if (next)
            mapping = std::move(next);
        else if (mapping)
            parse_detail(line, *mapping);
    }
}

}  // namespace harena::tool
