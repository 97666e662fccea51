// SPDX-License-Identifier: Apache-2.0
// An HMAC key that is nowhere but in secret memory: read there from its file, used by OpenSSL through its pointer.
//
//     hmac_key KEYFILE [FILE]       prints the HMAC-SHA256 of FILE, or of the standard input
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "examples/secret_memory/openssl_memory.hpp"
#include "harena/secret/secret_bytes.hpp"

namespace {

using harena::Result;
using harena::SecretBytes;
using harena::SecretHeap;

constexpr std::size_t k_longest_key = 4096;
/// From this size on, bytes that are like the key are a copy of it.
constexpr std::size_t k_rare = 16;

Result<int> open_file(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return harena::fail(errno, "{}: {}", path, std::strerror(errno));
    return file;
}

/// The file's bytes, which the kernel writes straight into the secret: no stream and no buffer in between.
Result<SecretBytes> read_key(SecretHeap& heap, const std::string& path) {
    HARENA_TRY(const int file, open_file(path));
    HARENA_TRY(SecretBytes key, SecretBytes::create(heap, k_longest_key));
    std::size_t size = 0;
    ssize_t got = 0;
    while (size < key.size() && (got = ::read(file, key.data() + size, key.size() - size)) > 0)
        size += static_cast<std::size_t>(got);
    ::close(file);
    if (got < 0) return harena::fail(EIO, "{} cannot be read", path);
    if (size == 0 || size == key.size())
        return harena::fail(EINVAL, "{}: a key has 1 to {} bytes", path, k_longest_key - 1);
    HARENA_CHECK_OK(key.resize(size));
    return key;
}

struct Hmac {
    std::string text;
    std::size_t copies_of_key;  // outside of secret memory, while OpenSSL has the key
};

Result<Hmac> hmac_of(int file, const SecretBytes& key) {
    const std::unique_ptr<EVP_MAC, decltype(&EVP_MAC_free)> mac{EVP_MAC_fetch(nullptr, "HMAC", nullptr), &EVP_MAC_free};
    const std::unique_ptr<EVP_MAC_CTX, decltype(&EVP_MAC_CTX_free)> context{EVP_MAC_CTX_new(mac.get()),
                                                                            &EVP_MAC_CTX_free};
    std::string digest = "SHA256";
    const std::array<OSSL_PARAM, 2> parameters{OSSL_PARAM_construct_utf8_string("digest", digest.data(), 0),
                                               OSSL_PARAM_construct_end()};
    // The key by its pointer. What OpenSSL copies of it is in secret memory, too.
    bool good = EVP_MAC_init(context.get(), reinterpret_cast<const unsigned char*>(key.data()), key.size(),
                             parameters.data()) == 1;
    std::array<unsigned char, 65536> piece;
    ssize_t got = 0;
    while (good && (got = ::read(file, piece.data(), piece.size())) > 0)
        good = EVP_MAC_update(context.get(), piece.data(), static_cast<std::size_t>(got)) == 1;
    std::array<unsigned char, EVP_MAX_MD_SIZE> out;
    std::size_t size = 0;
    const std::size_t copies = key.size() < k_rare ? 0 : harena::example::copies_outside(key.bytes());
    if (!good || got < 0 || EVP_MAC_final(context.get(), out.data(), &size, out.size()) != 1)
        return harena::fail(EIO, "the HMAC cannot be computed");
    std::string text;
    for (std::size_t i = 0; i < size; ++i) text += fmt::format("{:02x}", out[i]);
    return Hmac{text, copies};
}

Result<void> run(int argc, char** argv) {
    // Lives as long as the process: OpenSSL frees some of its memory at the very end.
    HARENA_TRY(auto made, SecretHeap::create());
    SecretHeap& heap = *made.release();
    if (!harena::example::give_openssl_secret_memory(heap))
        return harena::fail(EBUSY, "OpenSSL was used before it got its memory");

    HARENA_TRY(const SecretBytes key, read_key(heap, argv[1]));
    int file = STDIN_FILENO;
    if (argc > 2) {
        HARENA_TRY(file, open_file(argv[2]));
    }
    HARENA_TRY(const Hmac hmac, hmac_of(file, key));
    fmt::print("{}\n", hmac.text);
    if (key.size() >= k_rare) fmt::print("copies outside of secret memory: {}\n", hmac.copies_of_key);
    const harena::SecretStatistics statistics = heap.statistics();
    fmt::print("{} secrets in {} KiB of {}\n", statistics.live, statistics.locked_bytes / 1024,
               name_of(statistics.backend));
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2 && argc != 3) {
        fmt::print(stderr, "usage: hmac_key KEYFILE [FILE]\n");
        return 2;
    }
    const auto done = run(argc, argv);
    if (done) return 0;
    fmt::print(stderr, "hmac_key: {}\n", done.error().message());
    return 1;
}
