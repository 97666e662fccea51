// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/doctor.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "harena/arena/process_arena.hpp"
#include "harena/base/os/file.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/os/system_info.hpp"
#include "harena/bpf/engine.hpp"
#include "harena/exec/text_space.hpp"
#include "harena/kernel/kernel_engine.hpp"
#include "harena/page/page_pool.hpp"
#include "harena/secret/secret_heap.hpp"
#include "tools/harena/cc.hpp"
#include "tools/harena/output.hpp"

namespace harena::tool {

namespace {

/// The address that many kernel programs ask for in their map definition.
constexpr std::uint64_t k_common_address = std::uint64_t{1} << 44;
/// Linux's default of vm.max_map_count.
constexpr std::uint64_t k_default_max_mappings = 65530;

/// One thing that was looked at.
struct Finding {
    std::string key;   // in JSON
    std::string name;  // for people
    bool good = true;  // harena has all that it can use
    std::string found = {};
    std::string enable = {};  // what to do, if anything
};

/// The contents of a small file of /proc or /sys without the last newline; nothing if it cannot be read.
std::optional<std::string> read_text(const std::string& path) {
    const auto bytes = os::read_file(path);
    if (!bytes) return std::nullopt;
    std::string text{reinterpret_cast<const char*>(bytes->data()), bytes->size()};
    if (text.ends_with('\n')) text.pop_back();
    return text;
}

/// The number in the line "<key>:  <number> …" of a file of /proc.
std::optional<std::uint64_t> number_of(std::string_view text, std::string_view key) {
    const std::size_t at = text.find(key);
    if (at == std::string_view::npos) return std::nullopt;
    text.remove_prefix(std::min(text.size(), text.find_first_of("0123456789\n", at + key.size())));
    std::uint64_t value = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc{}) return std::nullopt;
    return value;
}

constexpr std::string_view k_without_userfaultfd = "; arenas work without it, but see the host's touches late";

Finding look_at_userfaultfd() {
    Finding finding{.key = "userfaultfd", .name = "userfaultfd"};
    const auto arena = ProcessArena::create(
        {.name = "doctor", .pages = PageCount{1}, .user_vm_start = {}, .tuning = {.exact_presence = true}});
    if (!arena) {
        finding.good = false;
        finding.found = arena.error().message();
        if (ProcessArena::create({.name = "doctor", .pages = PageCount{1}, .user_vm_start = {}}))
            finding.found += k_without_userfaultfd;
        // Other errors say themselves what to do.
        if (arena.error().code() == EPERM)
            finding.enable = "allow the userfaultfd system call (a container's seccomp filter may forbid it)";
        if (arena.error().code() == ENOSYS) finding.enable = "use Linux 5.11 or later, built with CONFIG_USERFAULTFD";
        return finding;
    }
    *static_cast<volatile std::byte*>((*arena)->data()) = std::byte{1};
    const auto statistics = (*arena)->statistics();
    finding.good = statistics && statistics->host_faults == 1;
    finding.found = finding.good ? "works, with SIGBUS in the faulting thread" : "a host fault was not seen";
    return finding;
}

Finding look_at_common_address() {
    Finding finding{.key = "address_1_44", .name = "address 1 << 44", .found = "free"};
    const auto mapping = os::find_mapping(k_common_address, Window::k_bytes);
    if (mapping) {
        finding.good = false;
        finding.found = fmt::format("taken by {}", *mapping);
        finding.enable = "run objects that ask for it with --arena-address 0";
    }
    return finding;
}

Finding look_at_clang() {
    const std::string clang = find_bpf_clang();
    Finding finding{.key = "clang", .name = "clang for BPF", .good = !clang.empty(), .found = clang};
    if (clang.empty()) {
        finding.found = "none";
        finding.enable = "install clang-19, or set HARENA_CLANG";
    }
    return finding;
}

Finding look_at_headers() {
    Finding finding{.key = "bpf_headers", .name = "headers for BPF", .found = bpf_include_folder()};
    const bool own = read_text(finding.found + "/harena/arena.h").has_value();
    const bool libbpf = read_text("/usr/include/bpf/bpf_helpers.h").has_value();
    finding.good = own && libbpf;
    if (!own) finding.found += " (no harena/arena.h there)";
    if (!libbpf) finding.found += ", no <bpf/bpf_helpers.h>";
    if (!libbpf) finding.enable = "install libbpf-dev";
    if (!own) finding.enable = "install harena's headers for BPF programs";
    return finding;
}

/// Makes a secret in what memory there is for it.
Finding look_at_secret_memory() {
    Finding finding{.key = "memfd_secret", .name = "memfd_secret", .found = "works"};
    const auto heap = SecretHeap::create({.capacity = 64 * k_kib});
    const auto secret = heap ? (*heap)->alloc(1) : fail(heap.error().code(), "{}", heap.error().message());
    if (secret) return finding;
    finding.good = false;
    finding.found = secret.error().message();
    if (const auto made = os::try_memfd_secret(); !made) {
        finding.found = os::describe(made.error());
        finding.enable = "boot with secretmem.enable=1 (Linux 5.14 or later), or allow it in the seccomp filter";
    }
    return finding;
}

/// Which memory secrets are in, and where only less is to be had.
std::string secret_backend() {
    const auto heap = SecretHeap::create({.capacity = 64 * k_kib, .allow_mlock = true});
    if (!heap) return "none";
    const std::string_view backend = name_of((*heap)->statistics().backend);
    if (!(*heap)->alloc(1)) return fmt::format("none: {} works, and no memory can be locked", backend);
    return (*heap)->statistics().backend == SecretBackend::memfd_secret
               ? std::string{backend}
               : fmt::format("{}, where allow_mlock is set: within reach of debuggers", backend);
}

/// The value in brackets of "always [madvise] never".
std::string chosen_in(const std::string& choices) {
    const std::size_t begin = choices.find('[');
    const std::size_t end = choices.find(']', begin == std::string::npos ? 0 : begin);
    return begin == std::string::npos || end == std::string::npos ? choices
                                                                  : choices.substr(begin + 1, end - begin - 1);
}

Finding look_at_huge_pages(std::string key, std::string name, const std::string& file) {
    Finding finding{.key = std::move(key), .name = std::move(name), .found = "not known"};
    const auto choices = read_text("/sys/kernel/mm/transparent_hugepage/" + file);
    finding.good = choices.has_value();
    if (choices) finding.found = chosen_in(*choices);
    return finding;
}

/// Makes a pool of one pageblock, and looks whether it became one 2 MiB page.
Finding look_at_collapse() {
    Finding finding{.key = "collapse", .name = "2 MiB pages in pools", .good = false};
    const auto pool = PagePool::create({.capacity = PageCount{k_pageblock_pages}, .nodes = 1});
    const auto page = pool ? (*pool)->alloc_pages(Order{}) : fail(pool.error().code(), "{}", pool.error().message());
    if (!page) {
        finding.found = page.error().message();
        return finding;
    }
    const auto statistics = (*pool)->direct_map_statistics();
    finding.good = statistics && statistics->collapsed == 1;
    finding.found = finding.good ? "work, by MADV_COLLAPSE" : "none: pools are on 4 KiB pages";
    if (!finding.good) finding.enable = "use Linux 6.1 or later, built with CONFIG_TRANSPARENT_HUGEPAGE";
    (void)(*pool)->free_pages(*page, Order{});
    return finding;
}

/// Writes a piece of text, and looks whether its block became one 2 MiB page.
Finding look_at_text() {
    Finding finding{.key = "text", .name = "executable text", .good = false};
    const auto space = TextSpace::create({.max_bytes = k_huge_page_size, .name = "doctor"});
    const auto text = space ? (*space)->text_alloc(1) : fail(space.error().code(), "{}", space.error().message());
    if (!text) {
        finding.found = text.error().message();
        return finding;
    }
    finding.good = (*space)->statistics().blocks_collapsed == 1;
    finding.found = finding.good ? "works, on 2 MiB pages" : "works, on 4 KiB pages";
    if (!finding.good) finding.enable = "use Linux 6.1 or later, built with CONFIG_TRANSPARENT_HUGEPAGE";
    return finding;
}

Finding look_at_live_patches() {
    const auto synced = TextSpace::sync_all_threads();
    Finding finding{.key = "live_patches", .name = "live patches of text", .good = synced.has_value(), .found = "work"};
    if (!synced) finding.found = synced.error().message();
    return finding;
}

Finding look_at_hugetlb() {
    Finding finding{.key = "hugetlb", .name = "hugetlb pages", .found = "not known"};
    const std::string memory = read_text("/proc/meminfo").value_or("");
    const auto total = number_of(memory, "HugePages_Total:");
    const auto free = number_of(memory, "HugePages_Free:");
    finding.good = total.value_or(0) != 0;
    if (total && free) finding.found = fmt::format("{} of {} free", *free, *total);
    if (!finding.good) finding.enable = "sysctl vm.nr_hugepages=N, for arenas of 2 MiB pages";
    return finding;
}

/// Tries the kernel engine for real.
Finding look_at_kernel_bpf() {
    Finding finding{.key = "kernel_bpf", .name = "arenas in the kernel", .found = "work"};
    const auto tried = kernel::try_engine();
    if (tried && tried->no_faults.empty()) return finding;
    finding.good = false;
    finding.found = tried ? "work, but faults are not counted: " + tried->no_faults : tried.error().message();
    if (tried) return finding;
    finding.enable = tried.error().code() == EPERM ? "run with CAP_BPF and CAP_PERFMON, or as root"
                                                   : "use Linux 6.9 or later, with CONFIG_DEBUG_INFO_BTF";
    return finding;
}

Finding look_at_limit(std::string key, std::string name, int resource, bool of_bytes, std::uint64_t wanted,
                      std::string_view enable) {
    Finding finding{.key = std::move(key), .name = std::move(name), .found = "not known"};
    const auto limit = os::getrlimit(resource);
    if (!limit) return finding;
    const bool unlimited = *limit == std::numeric_limits<std::uint64_t>::max();
    finding.good = *limit >= wanted;
    finding.found = unlimited ? "unlimited" : of_bytes ? human_bytes(*limit) : std::to_string(*limit);
    if (!finding.good) finding.enable = enable;
    return finding;
}

Finding look_at_mappings() {
    Finding finding{.key = "mappings", .name = "mappings"};
    const std::string maps = read_text("/proc/self/maps").value_or("");
    const auto current = static_cast<std::uint64_t>(std::ranges::count(maps, '\n')) + 1;
    const auto limit = number_of(read_text("/proc/sys/vm/max_map_count").value_or(""), "").value_or(0);
    finding.good = limit >= k_default_max_mappings;
    finding.found = fmt::format("{} of {}", current, limit);
    if (!finding.good) finding.enable = fmt::format("sysctl vm.max_map_count={}", k_default_max_mappings);
    return finding;
}

std::vector<Finding> look() {
    constexpr std::uint64_t k_whole_arena = Window::k_bytes;
    std::vector<Finding> findings;
    findings.push_back({.key = "kernel", .name = "kernel", .found = "Linux " + os::kernel_release()});
    findings.push_back(look_at_userfaultfd());
    findings.push_back(look_at_common_address());
    findings.push_back(look_at_clang());
    findings.push_back(look_at_headers());
    findings.push_back(look_at_kernel_bpf());
    findings.push_back(look_at_secret_memory());
    findings.push_back(look_at_huge_pages("transparent_hugepage", "huge pages", "enabled"));
    findings.push_back(look_at_huge_pages("shmem_hugepage", "huge pages, shmem", "shmem_enabled"));
    findings.push_back(look_at_collapse());
    findings.push_back(look_at_text());
    findings.push_back(look_at_live_patches());
    findings.push_back(look_at_hugetlb());
    findings.push_back(look_at_mappings());
    findings.push_back(look_at_limit("rlimit_fsize", "RLIMIT_FSIZE", RLIMIT_FSIZE, true, 2 * k_whole_arena,
                                     "ulimit -f unlimited, for arenas of any size"));
    findings.push_back(look_at_limit("rlimit_as", "RLIMIT_AS", RLIMIT_AS, true, 16 * k_whole_arena,
                                     "ulimit -v unlimited: an arena takes 4 GiB of address space"));
    findings.push_back(look_at_limit("rlimit_memlock", "RLIMIT_MEMLOCK", RLIMIT_MEMLOCK, true, 0, ""));
    findings.push_back(look_at_limit("rlimit_nofile", "RLIMIT_NOFILE", RLIMIT_NOFILE, false, 256, "ulimit -n 1024"));
    return findings;
}

/// What harena does with what there is.
struct Use {
    std::string key;
    std::string name;
    std::string what;
};

std::string how_pages_are_watched(const Finding& userfaultfd) {
    if (userfaultfd.good) return "absent pages by userfaultfd, in units of 4 KiB";
    if (userfaultfd.found.ends_with(k_without_userfaultfd)) return "absent pages by mincore, checked in software";
    return "none";
}

std::vector<Use> uses_of(const std::vector<Finding>& findings) {
    const auto find = [&](std::string_view key) -> const Finding& {
        return *std::ranges::find(findings, key, &Finding::key);
    };
    // Without a count of faults, it works all the same.
    const bool kernel_works = find("kernel_bpf").found.starts_with("work");
    return {
        {"arenas", "arenas", how_pages_are_watched(find("userfaultfd"))},
        {"engine", "programs",
         fmt::format("{} engine{}", bpf::Engine::process().name(),
                     kernel_works ? ", kernel engine with --engine kernel" : "")},
        {"pools", "page pools",
         find("collapse").good ? "direct map on 2 MiB pages"
                               : "direct map on 4 KiB pages: more TLB misses, slower unmapping"},
        {"text", "executable text", find("text").good ? "read-execute on 2 MiB pages" : find("text").found},
        {"secrets", "secret memory", secret_backend()},
        {"compiler", "BPF C", find("clang").good ? find("clang").found : "objects only"},
    };
}

void print_text(const std::vector<Finding>& findings, const std::vector<Use>& uses) {
    constexpr std::size_t k_width = 22;
    for (const Finding& finding : findings)
        fmt::print("{} {:<{}}{}\n", finding.good ? ' ' : '!', finding.name, k_width, escaped(finding.found));
    fmt::print("\nharena uses\n");
    for (const Use& use : uses) fmt::print("  {:<{}}{}\n", use.name, k_width, escaped(use.what));
    if (std::ranges::all_of(findings, [](const Finding& finding) { return finding.enable.empty(); })) return;
    fmt::print("\nto get more\n");
    for (const Finding& finding : findings)
        if (!finding.enable.empty()) fmt::print("  {:<{}}{}\n", finding.name, k_width, escaped(finding.enable));
}

Json to_json(const std::vector<Finding>& findings, const std::vector<Use>& uses) {
    Json json{{"findings", Json::object()}, {"uses", Json::object()}};
    for (const Finding& finding : findings)
        json["findings"][finding.key] = {{"good", finding.good}, {"found", finding.found}, {"enable", finding.enable}};
    for (const Use& use : uses) json["uses"][use.key] = use.what;
    return json;
}

}  // namespace

int run_doctor(bool json) {
    const std::vector<Finding> findings = look();
    const std::vector<Use> uses = uses_of(findings);
    if (json)
        print_json(to_json(findings, uses));
    else
        print_text(findings, uses);
    return k_ran;
}

}  // namespace harena::tool
