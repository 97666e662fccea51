// SPDX-License-Identifier: Apache-2.0
#include "examples/secret_memory/openssl_memory.hpp"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "harena/secret/wipe.hpp"

namespace harena::example {

namespace {

SecretHeap* openssl_heap = nullptr;

void* allocate(std::size_t bytes, const char* /*file*/, int /*line*/) {
    const auto made = openssl_heap->alloc(bytes);
    return made ? *made : nullptr;
}

void release(void* memory, const char* /*file*/, int /*line*/) { (void)openssl_heap->free(memory); }

void* reallocate(void* memory, std::size_t bytes, const char* file, int line) {
    if (memory == nullptr) return allocate(bytes, file, line);
    if (bytes == 0) {
        release(memory, file, line);
        return nullptr;
    }
    void* const larger = allocate(bytes, file, line);
    if (larger == nullptr) return nullptr;
    std::memcpy(larger, memory, std::min(bytes, openssl_heap->size_of(memory)));
    release(memory, file, line);
    return larger;
}

/// Bytes [at, at + key.size()) are the key's, in this or the other order. Reads the key where it is.
bool is_key(const std::byte* at, std::span<const std::byte> key) {
    return std::equal(key.begin(), key.end(), at) || std::equal(key.rbegin(), key.rend(), at);
}

}  // namespace

bool give_openssl_secret_memory(SecretHeap& heap) {
    openssl_heap = &heap;
    return CRYPTO_set_mem_functions(&allocate, &reallocate, &release) == 1;
}

std::size_t copies_outside(std::span<const std::byte> key) {
    constexpr std::size_t k_piece = std::size_t{1} << 20;
    constexpr std::size_t k_most = std::size_t{1} << 28;  // of a mapping
    std::vector<std::byte> piece(k_piece);
    std::size_t copies = 0;
    const int memory = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    std::FILE* const maps = std::fopen("/proc/self/maps", "re");
    std::array<char, 512> line{};
    while (std::fgets(line.data(), line.size(), maps) != nullptr) {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
        char readable = '-';
        if (std::sscanf(line.data(), "%lx-%lx %c", &begin, &end, &readable) != 3 || readable != 'r') continue;
        end = std::min(end, begin + k_most);
        for (std::uint64_t at = begin; at < end; at += k_piece - key.size()) {
            const ssize_t got =
                ::pread(memory, piece.data(), std::min<std::size_t>(k_piece, end - at), static_cast<off_t>(at));
            if (got < static_cast<ssize_t>(key.size())) break;
            for (std::size_t i = 0; i + key.size() <= static_cast<std::size_t>(got); ++i)
                if ((piece[i] == key.front() || piece[i] == key.back()) && is_key(piece.data() + i, key)) ++copies;
            wipe(piece.data(), static_cast<std::size_t>(got));  // this buffer is looked at, too
        }
    }
    (void)std::fclose(maps);
    ::close(memory);
    return copies;
}

[[gnu::noinline]] void wipe_stack() noexcept {
    std::array<std::byte, 256 * 1024> below;
    wipe(below.data(), below.size());
}

}  // namespace harena::example
