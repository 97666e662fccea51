// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/e2e/command.hpp"

namespace harena::e2e {
namespace {

/// The example counts with the program in the arena and with std::unordered_map, and fails if they differ: what is
/// tested here besides is that it finds the right number of words, and says what goes wrong.
class WordIndex : public CommandTest {
protected:
    void expect_words(const Outcome& outcome, std::uint64_t words, std::uint64_t different) {
        EXPECT_EQ(outcome.status, 0) << outcome.err;
        expect_in(outcome.out, fmt::format("counts agree with std::unordered_map: {} words\n", words));
        expect_in(outcome.out, fmt::format("program  {} words, {} different,", words, different));
        expect_in(outcome.out, "Arena READ access at unmapped address 0x");
        expect_in(outcome.out, "Arena WRITE access at unmapped address 0x");
        expect_in(outcome.out, "word_index.bpf.c:");
    }
    static void expect_in(const std::string& text, const std::string& part) {
        EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in:\n" << text;
    }
};

TEST_F(WordIndex, words_are_runs_of_letters_and_digits_in_lower_case) {
    const std::string text = file("text", "The cat, the DOG; tHe c3po-r2d2 _the_ na\xc3\xafve\nlast");
    const Outcome outcome = word_index({text});
    expect_words(outcome, 11, 8);  // the ×4, cat, dog, c3po, r2d2, na, ve, last
    expect_in(outcome.out, "           4  the\n");
}

TEST_F(WordIndex, default_text_is_the_gpl) {
    if (!std::filesystem::exists("/usr/share/common-licenses/GPL-3"))
        GTEST_SKIP() << "no /usr/share/common-licenses/GPL-3";
    const Outcome outcome = word_index({});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    expect_in(outcome.out, "345  the\n");
    expect_in(outcome.out, "counts agree with std::unordered_map: 5700 words\n");
}

TEST_F(WordIndex, empty_text_has_no_words) {
    expect_words(word_index({file("empty", "")}), 0, 0);
    expect_words(word_index({file("blanks", " \n\t--")}), 0, 0);
}

TEST_F(WordIndex, words_of_any_length_are_counted) {
    const std::string at_page_end(4096 - 32, 'a');  // with its node exactly one page
    const std::string longer(300'000, 'b');
    std::string text;
    for (const std::string& word : {at_page_end, longer, at_page_end + "a", at_page_end}) text += word + " ";
    expect_words(word_index({file("long", text + longer)}), 5, 3);
}

TEST_F(WordIndex, words_across_the_pieces_in_which_the_file_is_read_are_whole) {
    std::string text(1 << 20, ' ');
    text.replace(text.size() - 3, 3, "abc");
    expect_words(word_index({file("pieces", text + "def")}), 1, 1);
}

TEST_F(WordIndex, binary_file_is_a_text_like_any_other) {
    std::mt19937 random{1};
    std::string bytes(200'000, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    const Outcome outcome = word_index({file("binary", bytes)});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    expect_in(outcome.out, "counts agree with std::unordered_map: ");
}

TEST_F(WordIndex, many_different_words_fill_many_pages) {
    std::string text;
    for (int i = 0; i < 40'000; ++i) text += fmt::format("w{} ", i);
    expect_words(word_index({file("many", text + "w7")}), 40'001, 40'000);
}

TEST_F(WordIndex, too_little_time_is_reported_instead_of_wrong_counts) {
    std::string text;
    for (int i = 0; i < 200'000; ++i) text += fmt::format("w{} ", i);
    const Outcome outcome = word_index({file("many", text), "--budget-ms", "0"});
    EXPECT_EQ(outcome.status, 1);
    expect_in(outcome.err, "not counted to its end within 0 ms");
    EXPECT_EQ(outcome.out, "");
}

TEST_F(WordIndex, text_that_cannot_be_had_is_one_line) {
    const auto expect_error = [&](const std::string& file, const std::string& message) {
        const Outcome outcome = word_index({file});
        EXPECT_EQ(outcome.status, 1);
        EXPECT_EQ(outcome.out, "");
        EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
        expect_in(outcome.err, "word_index: " + file);
        expect_in(outcome.err, message);
    };
    expect_error(path("absent"), "No such file");
    expect_error(path("."), "is a folder");
    const std::string sparse = file("sparse", "");
    std::error_code error;
    std::filesystem::resize_file(sparse, std::uintmax_t{5} << 30, error);
    if (error) GTEST_SKIP() << "no sparse file of 5 GiB here: " << error.message();
    expect_error(sparse, "too large");
}

}  // namespace
}  // namespace harena::e2e
