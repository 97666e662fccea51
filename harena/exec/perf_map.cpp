// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/perf_map.hpp"

#include <algorithm>
#include <cerrno>
#include <string>

#include "harena/base/map_error.hpp"
#include "harena/base/os/inspect.hpp"
#include "harena/base/os/io.hpp"
#include "harena/base/os/process.hpp"

namespace harena {

Result<PerfMap> PerfMap::open() {
    const std::string path = fmt::format("/tmp/perf-{}.map", os::process_id());
    auto file = os::open_own_for_appending(path);
    if (!file && (file.error().code == EEXIST || file.error().code == ELOOP))
        return fail(EEXIST, "{} is there, and not a file of this user's alone: remove it", path);
    if (!file) return os::fail_with(file.error(), fmt::format("cannot open {}", path));
    return PerfMap{std::move(*file)};
}

Result<void> PerfMap::add(std::uint64_t address, std::uint64_t bytes, std::string_view name) {
    std::string line = fmt::format("{:x} {:x} {}", address, bytes, name);
    std::ranges::replace_if(line, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; }, '?');
    line += '\n';
    const auto facts = os::facts_of(file_.get());
    if (!facts) return os::fail_with(facts.error(), "the perf map cannot be looked at");
    HARENA_CHECK_OK(check_file_size(facts->bytes + line.size(), "the perf map"));
    // One call a line: other writers' lines stay whole.
    const auto written = os::write(file_.get(), line.data(), line.size());
    if (!written) return os::fail_with(written.error(), "cannot write to the perf map");
    if (*written != line.size()) return fail(ENOSPC, "no room for the perf map");
    return {};
}

}  // namespace harena
