// SPDX-License-Identifier: Apache-2.0
// Counts the words of a file with a BPF program whose hash table the host then reads in place, by plain pointers.
#include "examples/word_index/word_index.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "harena/base/os/process.hpp"
#include "harena/bpf/object.hpp"

namespace {

using harena::Arena;
using harena::fail;
using harena::Result;
using Clock = std::chrono::steady_clock;

constexpr std::string_view k_default_text = "/usr/share/common-licenses/GPL-3";
constexpr std::size_t k_chunk_bytes = 1 << 20;
constexpr std::size_t k_words_shown = 10;
/// Kept free for the table, at least.
constexpr std::uint64_t k_table_bytes = 16 * harena::k_mib;

double milliseconds_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// The same count in plain C++, to compare with.
class NativeCount {
public:
    /// Words may go on from one piece to the next.
    void add(std::string_view piece) {
        const Clock::time_point start = Clock::now();
        for (const char c : piece) {
            const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
            if ((lower >= 'a' && lower <= 'z') || (lower >= '0' && lower <= '9'))
                word_ += lower;
            else
                end_word();
        }
        milliseconds_ += milliseconds_since(start);
    }
    void end_word() {
        if (word_.empty()) return;
        ++counts_[word_];
        word_.clear();
    }

    [[nodiscard]] const std::unordered_map<std::string, std::uint64_t>& counts() const { return counts_; }
    [[nodiscard]] double milliseconds() const { return milliseconds_; }

private:
    std::unordered_map<std::string, std::uint64_t> counts_;
    std::string word_;
    double milliseconds_ = 0;
};

/// Copies a file into the arena from `destination` on, and counts its words on the way. Returns its length.
/// The arena's pages are absent: each first touch of one is a fault that gives a zeroed page.
Result<std::uint64_t> load_text(const std::string& path, const Arena& arena, std::byte* destination,
                                NativeCount& native) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) return fail(EISDIR, "is a folder");
    std::ifstream file{path, std::ios::binary};
    if (!file) return fail(errno, "{}", std::strerror(errno));

    const std::uint64_t room = static_cast<std::uint64_t>(arena.data() + arena.size() - destination) - k_table_bytes;
    std::vector<char> chunk(k_chunk_bytes);
    std::uint64_t length = 0;
    const std::uint64_t expected = std::filesystem::file_size(path, ignored);  // of an ordinary file
    bool fits = ignored || expected <= room;
    while (fits && file) {
        file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        const auto got = static_cast<std::uint64_t>(file.gcount());
        fits = got <= room - length;
        if (!fits) break;
        std::memcpy(destination + length, chunk.data(), got);
        native.add({chunk.data(), got});
        length += got;
    }
    if (!fits) return fail(EFBIG, "too large: at most {} bytes fit into the arena", room);
    if (file.bad()) return fail(EIO, "could not be read to its end");
    native.end_word();
    return length;
}

/// Reads the program's table in place. What a program left in an arena is not trusted: every pointer is checked.
Result<std::vector<const word*>> read_table(const Arena& arena, const word_table& table) {
    const auto holds = [&](const void* object, std::uint64_t bytes) {
        const auto* const begin = static_cast<const std::byte*>(object);
        return arena.contains(begin) && bytes <= static_cast<std::uint64_t>(arena.data() + arena.size() - begin);
    };
    std::vector<const word*> words;
    if (table.bucket_count > arena.size() ||
        !holds(static_cast<const void*>(table.buckets), table.bucket_count * sizeof(word*)))
        return fail(EINVAL, "the program left a damaged table");
    for (std::uint64_t i = 0; i < table.bucket_count; ++i)
        for (const word* w = table.buckets[i]; w != nullptr; w = w->next) {
            if (!holds(w, sizeof(word)) || !holds(w->text, w->length) || words.size() == table.words)
                return fail(EINVAL, "the program left a damaged table");
            words.push_back(w);
        }
    return words;
}

std::string_view text_of(const word& w) { return {w.text, w.length}; }

Result<std::uint64_t> compare(const std::vector<const word*>& words, const NativeCount& native) {
    if (words.size() != native.counts().size())
        return fail(EINVAL, "counts differ: the program found {} different words, std::unordered_map {}", words.size(),
                    native.counts().size());
    std::uint64_t total = 0;
    for (const word* w : words) {
        const auto entry = native.counts().find(std::string{text_of(*w)});
        const std::uint64_t expected = entry == native.counts().end() ? 0 : entry->second;
        if (w->count != expected)
            return fail(EINVAL, "counts differ: '{}' {} times, std::unordered_map has {}", text_of(*w).substr(0, 60),
                        w->count, expected);
        total += w->count;
    }
    return total;
}

void print_most_frequent(std::vector<const word*> words) {
    const auto shown = std::min(words.size(), k_words_shown);
    std::partial_sort(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(shown), words.end(),
                      [](const word* a, const word* b) {
                          return a->count != b->count ? a->count > b->count : text_of(*a) < text_of(*b);
                      });
    fmt::print("\n");
    for (std::size_t i = 0; i < shown; ++i) {
        const std::string_view text = text_of(*words[i]);
        fmt::print("{:>12}  {}{}\n", words[i]->count, text.substr(0, 60), text.size() > 60 ? "…" : "");
    }
    if (shown != 0) fmt::print("\n");
}

Result<void> run(const std::string& path, std::uint64_t budget_ms) {
    const std::filesystem::path here = harena::os::executable_path();
    HARENA_TRY(auto object, harena::bpf::Object::open((here.parent_path() / "word_index.bpf.o").string()));
    HARENA_CHECK_OK(object.load(harena::bpf::Engine::process()));
    HARENA_TRY(const std::shared_ptr<Arena> arena, object.arena());

    // Page 0 stays absent, so that no pointer of the program looks like NULL, and as a page to fail on below.
    HARENA_CHECK_OK(arena->reserve_pages(arena->data(), harena::PageCount{1}));
    std::byte* const text = arena->data() + harena::k_page_size;
    NativeCount native;
    const Clock::time_point copying = Clock::now();
    const Result<std::uint64_t> length = load_text(path, *arena, text, native);
    if (!length) return harena::pass_on(length.error().in(path));
    const double copy_ms = milliseconds_since(copying) - native.milliseconds();

    HARENA_TRY(std::byte * * const text_global, object.global<std::byte*>("text"));
    HARENA_TRY(std::uint64_t* const length_global, object.global<std::uint64_t>("text_length"));
    HARENA_TRY(std::byte * * const absent_global, object.global<std::byte*>("absent"));
    *text_global = text;
    *length_global = *length;
    *absent_global = arena->data();

    HARENA_TRY(auto* const count_words, object.program("count_words"));
    harena::bpf::RunOptions options;
    options.budget_ns = budget_ms * 1'000'000;
    options.measure_time = true;
    HARENA_TRY(const auto counted, count_words->run({}, options));
    if (counted.return_value == word_index_arena_full) return fail(ENOMEM, "{}: the words fill the whole arena", path);
    if (counted.return_value == word_index_out_of_time)
        return fail(ETIMEDOUT, "{}: not counted to its end within {} ms; give more with --budget-ms", path, budget_ms);
    if (counted.return_value != word_index_ok)
        return fail(EINVAL, "{}: count_words returned {}", path, counted.return_value);
    // One read and one write of the absent page, and no other.
    HARENA_TRY(const std::uint64_t* const absent_value, object.global<const std::uint64_t>("absent_value"));
    if (counted.fault_count != 2 || *absent_value != 0)
        return fail(EFAULT, "expected two faults and a zero from the absent page, got {} and {}", counted.fault_count,
                    *absent_value);

    const Clock::time_point walking = Clock::now();
    HARENA_TRY(const word_table* const table, object.global<word_table>("table"));
    HARENA_TRY(const std::vector<const word*> words, read_table(*arena, *table));
    HARENA_TRY(const std::uint64_t total, compare(words, native));
    const double walk_ms = milliseconds_since(walking);
    HARENA_TRY(const auto pages, arena->statistics());

    fmt::print("text     {}, {} bytes, copied in {:.1f} ms ({} host faults)\n", path, *length, copy_ms,
               pages.host_faults);
    fmt::print("program  {} words, {} different, in {:.1f} ms (std::unordered_map: {:.1f} ms)\n", total, words.size(),
               static_cast<double>(counted.duration_ns) / 1e6, native.milliseconds());
    fmt::print("host     walked and checked the table in {:.1f} ms\n", walk_ms);
    fmt::print("arena    {} of {} pages used, {} of them by the program, at {}\n", pages.used.value(),
               pages.pages.value(), table->pages, fmt::ptr(arena->data()));
    print_most_frequent(words);
    fmt::print("counts agree with std::unordered_map: {} words\n", total);

    fmt::print("\nThe program then touched an absent page, read {} there, and went on; {} faults were recorded:\n",
               *absent_value, counted.fault_count);
    for (const auto& fault : counted.faults) fmt::print("{}\n", to_text(fault));
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{"Counts the words of a file with a BPF program in an arena"};
    std::string path{k_default_text};
    std::uint64_t budget_ms = 600'000;
    app.add_option("FILE", path, "Any file")->capture_default_str();
    app.add_option("--budget-ms", budget_ms, "Time that the program may take")
        ->check(CLI::Range(0, 86'400'000))
        ->capture_default_str();
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }

    const Result<void> done = run(path, budget_ms);
    if (done) return 0;
    fmt::print(stderr, "word_index: {}\n", done.error().message());
    return 1;
}
