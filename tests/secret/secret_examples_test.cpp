// SPDX-License-Identifier: Apache-2.0
// The examples of secret memory as a user runs them.
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "harena/base/os/system_info.hpp"

namespace harena {
namespace {

struct Outcome {
    int status = -1;
    std::string out;  // both streams
};

Outcome run(const std::string& command) {
    Outcome outcome;
    std::FILE* const stream = ::popen((command + " 2>&1").c_str(), "r");
    if (stream == nullptr) return outcome;
    std::array<char, 4096> piece{};
    while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), stream))
        outcome.out.append(piece.data(), got);
    const int status = ::pclose(stream);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return outcome;
}

class SecretExamples : public testing::Test {
protected:
    SecretExamples()
        : folder_{std::filesystem::path{testing::TempDir()} / fmt::format("harena_secret_{}", ::getpid())} {
        std::filesystem::create_directory(folder_);
    }
    SecretExamples(const SecretExamples&) = delete;
    SecretExamples& operator=(const SecretExamples&) = delete;
    ~SecretExamples() override { std::filesystem::remove_all(folder_); }
    void SetUp() override {
        if (!os::try_memfd_secret()) GTEST_SKIP() << "no memfd_secret here";
#if defined(__SANITIZE_THREAD__)
        GTEST_SKIP() << "the thread sanitizer's records of memory are large, and look like keys";
#endif
    }
    [[nodiscard]] std::string file(const std::string& name, std::string_view contents) const {
        const std::string path = (folder_ / name).string();
        std::ofstream{path, std::ios::binary}.write(contents.data(), static_cast<std::streamsize>(contents.size()));
        return path;
    }
    static void expect_in(const Outcome& outcome, std::string_view part) {
        EXPECT_NE(outcome.out.find(part), std::string::npos) << "no '" << part << "' in:\n" << outcome.out;
    }

private:
    std::filesystem::path folder_;
};

TEST_F(SecretExamples, hmac_is_that_of_rfc_4231_and_the_key_is_nowhere_else) {
    struct Case {
        std::string key;
        std::string_view text;
        std::string_view hmac;
    };
    const std::array cases{
        Case{std::string(20, '\x0b'), "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        Case{std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First",
             "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
    };
    for (const Case& one : cases) {
        const Outcome outcome =
            run(fmt::format("{} {} {}", HARENA_HMAC_KEY, file("key", one.key), file("text", one.text)));
        EXPECT_EQ(outcome.status, 0);
        expect_in(outcome, fmt::format("{}\ncopies outside of secret memory: 0\n", one.hmac));
        expect_in(outcome, "KiB of memfd_secret\n");
    }
}

TEST_F(SecretExamples, hmac_says_what_is_wrong_and_nothing_of_the_key) {
    EXPECT_EQ(run(HARENA_HMAC_KEY).status, 2);
    const Outcome absent = run(fmt::format("{} /nowhere", HARENA_HMAC_KEY));
    EXPECT_EQ(absent.status, 1);
    expect_in(absent, "hmac_key: /nowhere: No such file");
    EXPECT_EQ(run(fmt::format("{} {}", HARENA_HMAC_KEY, file("empty", ""))).status, 1);
    const Outcome large = run(fmt::format("{} {}", HARENA_HMAC_KEY, file("large", std::string(5000, 'k'))));
    EXPECT_EQ(large.status, 1);
    EXPECT_EQ(large.out.find("kk"), std::string::npos);
}

TEST_F(SecretExamples, tls_server_signs_with_a_key_that_is_mapped_only_then) {
    const Outcome outcome = run(fmt::format("{} 5", HARENA_TLS_KEY));
    EXPECT_EQ(outcome.status, 0);
    expect_in(outcome, "TLSv1.3, certificate verified\n");
    expect_in(outcome, "5 handshakes, 6 signatures, 0 windows open now\n");  // one is the certificate's
    expect_in(outcome, "copies outside of secret memory: 0\n");
    EXPECT_EQ(run(fmt::format("{} none", HARENA_TLS_KEY)).status, 2);
}

}  // namespace
}  // namespace harena
