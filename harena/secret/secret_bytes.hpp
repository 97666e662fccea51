// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <iosfwd>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "harena/base/result.hpp"
#include "harena/secret/secret_heap.hpp"
#include "harena/secret/wipe.hpp"

namespace harena {

/// Owns one secret of a heap, which must outlive it. Moved, and copied only by name; compared in constant time; cannot
/// be printed. As thread-safe as a vector.
class SecretBytes {
public:
    /// Of no bytes, and no heap.
    SecretBytes() noexcept = default;
    /// `bytes` zero bytes; 0 is allowed. Errors: those of `SecretHeap::alloc`.
    [[nodiscard]] static Result<SecretBytes> create(SecretHeap& heap, std::size_t bytes,
                                                    const SecretAllocOptions& options = {});
    /// The same bytes; what is copied from is the caller's to wipe.
    [[nodiscard]] static Result<SecretBytes> copy_of(SecretHeap& heap, std::span<const std::byte> bytes);
    [[nodiscard]] Result<SecretBytes> copy() const;

    SecretBytes(SecretBytes&& other) noexcept
        : heap_{other.heap_}, data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)} {}
    SecretBytes& operator=(SecretBytes&& other) noexcept {
        std::swap(heap_, other.heap_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    SecretBytes(const SecretBytes&) = delete;
    SecretBytes& operator=(const SecretBytes&) = delete;
    ~SecretBytes() { reset(); }

    /// Null if there are no bytes.
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }

    /// Keeps the first bytes; new ones are zero. The bytes move, and where they were is zero. If it fails, nothing
    /// changed. Errors: those of `SecretHeap::alloc`; EINVAL for one that was made without a heap.
    Result<void> resize(std::size_t bytes);
    /// Frees the secret: no bytes are left.
    void reset() noexcept;

    /// In a time that depends on the sizes only.
    [[nodiscard]] bool equals(std::span<const std::byte> other) const noexcept {
        return equal_in_constant_time(bytes(), other);
    }
    friend bool operator==(const SecretBytes& a, const SecretBytes& b) noexcept { return a.equals(b.bytes()); }

private:
    SecretBytes(SecretHeap& heap, std::byte* data, std::size_t size) noexcept
        : heap_{&heap}, data_{data}, size_{size} {}

    SecretHeap* heap_ = nullptr;
    // Invariant: a live secret of `heap_` of `size_` bytes, or null and 0.
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

std::ostream& operator<<(std::ostream&, const SecretBytes&) = delete;

}  // namespace harena

template <>
struct fmt::formatter<harena::SecretBytes> {
    formatter() = delete;
};
