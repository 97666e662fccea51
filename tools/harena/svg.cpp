// SPDX-License-Identifier: Apache-2.0
#include "tools/harena/svg.hpp"

#include <array>

#include <fmt/format.h>

#include "tools/harena/output.hpp"

namespace harena::tool {

namespace {

constexpr std::string_view k_sans = "Helvetica, Arial, 'DejaVu Sans', sans-serif";
constexpr std::string_view k_mono = "'DejaVu Sans Mono', Consolas, monospace";

std::size_t length_of_character(unsigned char first) noexcept {
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

}  // namespace

std::string xml_text(std::string_view text, std::size_t max_characters) {
    // Cut first: a hostile name may be long. Each character has 4 bytes at most.
    const bool long_text = text.size() > 4 * max_characters;
    const std::string printable = escaped(text.substr(0, 4 * max_characters));
    std::string out;
    std::size_t characters = 0;
    for (std::size_t i = 0; i < printable.size();) {
        if (characters++ == max_characters) return out + "…";
        const std::string_view one =
            std::string_view{printable}.substr(i, length_of_character(static_cast<unsigned char>(printable[i])));
        if (one == "&")
            out += "&amp;";
        else if (one == "<")
            out += "&lt;";
        else if (one == ">")
            out += "&gt;";
        else if (one == "\"")
            out += "&quot;";
        else if (one == "\uFFFE" || one == "\uFFFF")  // which XML has not
            out += "?";
        else
            out += one;
        i += one.size();
    }
    return long_text ? out + "…" : out;
}

std::string short_bytes(std::uint64_t bytes) {
    if (bytes < 1024) return fmt::format("{} B", bytes);
    constexpr std::array<std::string_view, 5> k_units{"KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    while (value >= 1023.95 && unit + 1 < k_units.size()) {
        value /= 1024;
        ++unit;
    }
    std::string number = fmt::format("{:.1f}", value);
    if (number.ends_with(".0")) number.resize(number.size() - 2);
    return fmt::format("{} {}", number, k_units[unit]);
}

std::string grouped(std::uint64_t number) {
    const std::string digits = std::to_string(number);
    std::string text;
    for (std::size_t i = 0; i < digits.size(); ++i) {
        if (i != 0 && (digits.size() - i) % 3 == 0) text += ',';
        text += digits[i];
    }
    return text;
}

void Svg::rectangle(double x, double y, double width, double height, std::string_view fill, std::string_view more) {
    body_ += fmt::format(R"(<rect x="{:.5g}" y="{:.6g}" width="{:.5g}" height="{:.5g}" fill="{}"{}{}/>)"
                         "\n",
                         x, y, width, height, fill, more.empty() ? "" : " ", more);
}

void Svg::text(double x, double y, const std::string& text, const TextStyle& style) {
    body_ += fmt::format(R"(<text x="{:.5g}" y="{:.6g}" font-size="{}" fill="{}")", x, y, style.size, style.colour);
    if (style.bold) body_ += R"( font-weight="bold")";
    if (style.monospace) body_ += fmt::format(R"( font-family="{}")", k_mono);
    if (style.anchor != "start") body_ += fmt::format(R"( text-anchor="{}")", style.anchor);
    body_ += fmt::format(">{}</text>\n", text);
}

void Svg::path(std::string_view path, std::string_view more) {
    body_ += fmt::format(R"(<path d="{}" {}/>)"
                         "\n",
                         path, more);
}

std::string Svg::finish(double width, double height, const std::string& title) const {
    return fmt::format(R"(<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{0:.6g}" height="{1:.6g}" viewBox="0 0 {0:.6g} {1:.6g}" role="img" font-family="{2}">
<title>{3}</title>
<rect width="100%" height="100%" fill="#ffffff"/>
{4}</svg>
)",
                       width, height, k_sans, title, body_);
}

}  // namespace harena::tool
