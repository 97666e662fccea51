// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace harena::tool {

/// Text of an untrusted process as text of an XML file, cut to `max_characters`.
[[nodiscard]] std::string xml_text(std::string_view text, std::size_t max_characters = 80);

/// "12 KiB", "3.4 MiB", "17.2 TiB".
[[nodiscard]] std::string short_bytes(std::uint64_t bytes);

/// "1,048,576".
[[nodiscard]] std::string grouped(std::uint64_t number);

/// How text looks.
struct TextStyle {
    double size = 12;
    std::string_view colour = "#1a1a1a";
    bool bold = false;
    bool monospace = false;
    /// "start", "middle" or "end".
    std::string_view anchor = "start";
};

/// An SVG file in the making. Numbers are in pixels.
class Svg {
public:
    void rectangle(double x, double y, double width, double height, std::string_view fill, std::string_view more = {});
    /// `text` is escaped already.
    void text(double x, double y, const std::string& text, const TextStyle& style = {});
    /// What `path` says, in the language of SVG.
    void path(std::string_view path, std::string_view more);

    /// The whole file, of this size.
    [[nodiscard]] std::string finish(double width, double height, const std::string& title) const;

private:
    std::string body_;
};

}  // namespace harena::tool
