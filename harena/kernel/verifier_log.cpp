// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/verifier_log.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include <fmt/format.h>

namespace harena::kernel {

namespace {

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view k_blanks = " \t\r";
    text.remove_prefix(std::min(text.find_first_not_of(k_blanks), text.size()));
    return text.substr(0, text.find_last_not_of(k_blanks) + 1);
}

std::vector<std::string_view> lines_of(std::string_view text) {
    std::vector<std::string_view> lines;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        if (const std::string_view line = trimmed(text.substr(0, end)); !line.empty()) lines.push_back(line);
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return lines;
}

/// The number of an instruction that the verifier looks at: "12: (79) r1 = *(u64 *)(r2 +0)   ; R1_w=…".
std::optional<std::uint32_t> instruction_number(std::string_view line) {
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
    const std::string_view rest = line.substr(static_cast<std::size_t>(end - line.data()));
    if (error != std::errc{} || !rest.starts_with(": (")) return std::nullopt;
    return number;
}

/// What the verifier says when it is done, whatever came of it.
bool is_statistics(std::string_view line) {
    return line.starts_with("processed ") || line.starts_with("verification time ") || line.starts_with("stack depth ");
}

/// Source lines, registers, and what the verifier does, between the instruction and its verdict: "R1=ctx() R10=fp0",
/// "from 3 to 5: R0=…", "mark_precise: frame0: …".
bool is_state(std::string_view line) {
    const std::string_view word = line.substr(0, line.find(' '));
    const bool states_register = word.size() > 2 && word[0] == 'R' && word.find('=') != std::string_view::npos;
    return line.starts_with(';') || states_register || line.starts_with("from ") || line.starts_with("mark_precise") ||
           line.starts_with("caller:") || line.starts_with("callee:") || line.starts_with("cur state:") ||
           line.starts_with("old state:") || line.starts_with("frame");
}

}  // namespace

std::string last_lines(std::string_view text, unsigned count) {
    const std::vector<std::string_view> lines = lines_of(text);
    std::string joined;
    for (std::size_t i = lines.size() - std::min<std::size_t>(count, lines.size()); i < lines.size(); ++i)
        joined += fmt::format("{}{}", joined.empty() ? "" : "; ", lines[i]);
    return joined;
}

std::string shortened(std::string_view log, const std::function<std::string(std::uint32_t)>& place) {
    std::vector<std::string_view> lines = lines_of(log);
    std::erase_if(lines, is_statistics);
    std::string verdict;
    for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
        if (const auto number = instruction_number(*line)) {
            const std::string_view text = trimmed(line->substr(0, line->find(" ; R")));
            return fmt::format("{}: {} [{}]", place(*number), verdict.empty() ? "refused" : verdict, text);
        }
        if (is_state(*line)) continue;
        verdict = verdict.empty() ? std::string{*line} : fmt::format("{}; {}", *line, verdict);
    }
    return verdict.empty() ? "the verifier gave no reason" : verdict;
}

}  // namespace harena::kernel
