// SPDX-License-Identifier: Apache-2.0
//
// `harena inspect` of another process.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

using nlohmann::json;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A process that has arenas and areas, and waits.
class Inspected {
public:
    Inspected() {
        std::array<int, 2> in{-1, -1};
        std::array<int, 2> out{-1, -1};
        EXPECT_EQ(::pipe2(in.data(), O_CLOEXEC), 0);
        EXPECT_EQ(::pipe2(out.data(), O_CLOEXEC), 0);
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_adddup2(&actions, in[0], 0);
        ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        std::string program = HARENA_E2E_INSPECTED;
        std::array<char*, 2> arguments{program.data(), nullptr};
        EXPECT_EQ(::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environ), 0);
        ::posix_spawn_file_actions_destroy(&actions);
        ::close(in[0]);
        ::close(out[1]);
        in_ = in[1];
        out_ = out[0];
        std::string ready(6, '\0');
        for (std::size_t done = 0; done < ready.size();) {
            const ssize_t got = ::read(out_, ready.data() + done, ready.size() - done);
            if (got <= 0) break;
            done += static_cast<std::size_t>(got);
        }
        EXPECT_EQ(ready, "ready\n");
    }
    Inspected(const Inspected&) = delete;
    Inspected& operator=(const Inspected&) = delete;
    ~Inspected() {
        ::close(in_);
        int status = -1;
        EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
        EXPECT_EQ(status, 0) << "it has not noticed that it was looked at";
        ::close(out_);
    }
    [[nodiscard]] std::string pid() const { return std::to_string(pid_); }

private:
    pid_t pid_ = -1;
    int in_ = -1;
    int out_ = -1;
};

class ToolInspect : public CommandTest {
protected:
    /// Checks what XML asks for: elements that are closed in order, attributes in quotes, no bare & or <.
    static ::testing::AssertionResult well_formed(std::string_view xml) {
        std::vector<std::string> open;
        std::size_t elements = 0;
        for (std::size_t at = 0; at < xml.size();) {
            if (xml[at] == '&') {
                const std::string_view entity = xml.substr(at, xml.find(';', at) + 1 - at);
                if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;")
                    return ::testing::AssertionFailure() << "bare & at " << at;
                at += entity.size();
            } else if (xml[at] == '<') {
                const std::size_t end = xml.find('>', at);
                if (end == std::string_view::npos) return ::testing::AssertionFailure() << "open tag at " << at;
                std::string_view tag = xml.substr(at + 1, end - at - 1);
                if (tag.find('<') != std::string_view::npos || std::ranges::count(tag, '"') % 2 != 0)
                    return ::testing::AssertionFailure() << "bad tag: " << tag;
                const std::string name{tag.substr(0, tag.find_first_of(" /"))};
                if (tag.starts_with('/')) {
                    if (open.empty() || open.back() != tag.substr(1))
                        return ::testing::AssertionFailure() << "unexpected " << tag;
                    open.pop_back();
                } else if (!tag.starts_with('?') && !tag.ends_with('/')) {
                    open.push_back(name);
                }
                ++elements;
                at = end + 1;
            } else {
                ++at;
            }
        }
        if (!open.empty()) return ::testing::AssertionFailure() << "not closed: " << open.back();
        return elements > 10 ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << "nearly empty";
    }
    static std::string contents_of(const std::string& path) {
        std::ifstream stream{path, std::ios::binary};
        return {std::istreambuf_iterator<char>{stream}, {}};
    }
};

TEST_F(ToolInspect, lists_areas_arenas_and_pools) {
    const Inspected process;
    const Outcome outcome = harena({"inspect", process.pid()});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    EXPECT_TRUE(outcome.out.starts_with("process " + process.pid() + " (")) << outcome.out;
    for (const std::string part : {"[index] pages=", "sparse backed user\n", "[buffer] pages=75 vmalloc\n",
                                   "[view] pages=12 vmap\n", "[<sparse> & \"co\"] pages=36 sparse user\n",
                                   " 12288 unpurged vm_area\n", "[device] pages=2 phys=0x0000000000001000 ioremap\n",
                                   "pages=3 vm_map_ram\n", "[text] vmap exec\n", "inspected.cpp:"})
        EXPECT_TRUE(has(outcome.out, part)) << part << "\n" << outcome.out;
    EXPECT_TRUE(has(outcome.out, " 200 pages: 50 allocated, 16 reserved, 0 recycled, 134 free; 0 on 2 MiB entries\n"))
        << outcome.out;
    EXPECT_TRUE(has(outcome.out, " 1048576 pages: 19811 allocated, 8448 reserved, 0 recycled, 1020317 free; "))
        << outcome.out;
    EXPECT_TRUE(has(outcome.out, "  64 MiB: 4 MiB in use, 2 MiB in the direct map, ")) << outcome.out;
    EXPECT_FALSE(has(outcome.out, "\n! ")) << outcome.out;
}

TEST_F(ToolInspect, json_has_the_documented_keys) {
    const Inspected process;
    const Outcome outcome = harena({"inspect", process.pid(), "--json"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json result = json::parse(outcome.out);
    EXPECT_EQ(result["pid"], process.pid());
    EXPECT_EQ(result["spaces"].size(), 2U);
    EXPECT_EQ(result["areas"].size(), 10U);
    const auto find = [&](const std::string& list, const std::string& name) {
        const json& all = result[list];
        const auto found = std::ranges::find_if(all, [&](const json& one) { return one["name"] == name; });
        EXPECT_NE(found, all.end()) << name;
        return found == all.end() ? json{} : *found;
    };
    const json index = find("arenas", "index");
    EXPECT_EQ(index["pages"], 1U << 20);
    EXPECT_EQ(index["allocated"], 19811);
    EXPECT_EQ(index["reserved"], 8448);
    EXPECT_EQ(index["recycled"], 0);
    EXPECT_EQ(index["unknown"], 0);
    EXPECT_EQ(index["free"], (1U << 20) - 19811 - 8448);
    EXPECT_EQ(index["huge_bytes"].get<std::uint64_t>() % (2 << 20), 0U);
    const json window = find("areas", "index");
    EXPECT_EQ(window["kind"], "backed");
    EXPECT_EQ(window["pages"], 19811);
    EXPECT_EQ(window["address"], index["window"]);
    EXPECT_EQ(window["guard_below"], 32768);
    EXPECT_EQ(window["guard_above"], 36864);
    EXPECT_EQ(find("areas", "buffer")["pages"], 75);
    EXPECT_TRUE(has(find("areas", "buffer")["where"], "inspected.cpp:"));
    ASSERT_EQ(result["pools"].size(), 1U);
    EXPECT_EQ(result["pools"][0]["capacity_bytes"], 64 << 20);
    EXPECT_EQ(result["damaged"], 0);
    EXPECT_EQ(result["left_out"], 0);
    EXPECT_TRUE(result["unreadable"].empty());
}

TEST_F(ToolInspect, draws_a_picture_that_needs_nothing_else) {
    const Inspected process;
    const Outcome outcome = harena({"inspect", process.pid(), "--svg", path("picture.svg")});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.out, "\narenas\n")) << "the text is printed too";
    const std::string picture = contents_of(path("picture.svg"));
    EXPECT_TRUE(well_formed(picture));
    EXPECT_TRUE(picture.starts_with("<?xml ")) << picture.substr(0, 100);
    for (const std::string part :
         {"Arena index", "Arena counts", "window counts", "sparse &lt;sparse&gt; &amp; &quot;co&quot;",
          "vmalloc buffer", "pool, direct map", "unused", "stack", "reserved", "recycled"})
        EXPECT_TRUE(has(picture, part)) << part;
    for (const std::string part : {"<script", "href", "@import", "url("}) EXPECT_FALSE(has(picture, part)) << part;
    expect_bad_input(harena({"inspect", process.pid(), "--svg", path("no/folder.svg")}), {"no/folder.svg", "ENOENT"});
}

TEST_F(ToolInspect, self_has_no_areas) {
    const Outcome outcome = harena({"inspect", "self"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.out, "(harena)\nno areas\n")) << outcome.out;
}

TEST_F(ToolInspect, processes_that_cannot_be_looked_at_are_named) {
    expect_bad_input(harena({"inspect"}), {"PID"});
    expect_bad_input(harena({"inspect", "everything"}), {"everything", "self"});
    expect_bad_input(harena({"inspect", "0"}), {"'0'", "process ID"});
    expect_bad_input(harena({"inspect", "2147483647"}), {"no process 2147483647"});
    // This one has nothing of harena.
    expect_bad_input(harena({"inspect", std::to_string(::getpid())}),
                     {std::to_string(::getpid()), "does not use harena"});
}

TEST_F(ToolInspect, without_permission_says_what_is_needed) {
    if (::geteuid() != 0) {
        expect_bad_input(harena({"inspect", "1"}), {"process 1", "CAP_SYS_PTRACE"});
        return;
    }
    if (run({"setpriv", "--reuid", "65534", "--clear-groups", "true"}).status != 0) GTEST_SKIP() << "no setpriv here";
    const Inspected process;
    const Outcome outcome =
        run({"setpriv", "--reuid", "65534", "--clear-groups", HARENA_E2E_TOOL, "inspect", process.pid()});
    if (outcome.status == 127 || outcome.status == 126) GTEST_SKIP() << "another user may not run the tool here";
    expect_bad_input(outcome, {"process " + process.pid(), "CAP_SYS_PTRACE"});
}

}  // namespace
}  // namespace harena::e2e
