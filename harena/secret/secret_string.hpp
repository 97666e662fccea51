// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "harena/base/result.hpp"
#include "harena/secret/secret_bytes.hpp"

namespace harena {

/// A string all of whose characters, short ones too, are in a heap's secret memory, with a zero after the last. Moved,
/// and copied only by name; compared in constant time; cannot be printed. As thread-safe as a string.
class SecretString {
public:
    /// Empty. The heap must outlive it.
    explicit SecretString(SecretHeap& heap) noexcept : heap_{&heap} {}
    /// The same characters; what is copied from is the caller's to wipe. Errors: those of `SecretHeap::alloc`.
    [[nodiscard]] static Result<SecretString> from(SecretHeap& heap, std::string_view text);
    [[nodiscard]] Result<SecretString> copy() const { return from(*heap_, view()); }

    /// The other is empty afterwards, and can be used.
    SecretString(SecretString&& other) noexcept
        : heap_{other.heap_}, storage_{std::move(other.storage_)}, size_{std::exchange(other.size_, 0)} {}
    SecretString& operator=(SecretString&& other) noexcept {
        std::swap(heap_, other.heap_);
        std::swap(storage_, other.storage_);
        std::swap(size_, other.size_);
        return *this;
    }
    SecretString(const SecretString&) = delete;
    SecretString& operator=(const SecretString&) = delete;
    ~SecretString() = default;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    /// The characters where they are: valid until the string changes, and no safer than who holds it.
    [[nodiscard]] std::string_view view() const noexcept { return {c_str(), size_}; }
    /// The same with a zero after the last; never null.
    [[nodiscard]] const char* c_str() const noexcept;

    /// Appends characters, also of this string. Where they move, the old place is zero. If it fails, nothing changed.
    /// Errors: those of `SecretHeap::alloc`.
    Result<void> append(std::string_view text);
    Result<void> push_back(char character) { return append({&character, 1}); }
    /// Drops, and wipes, the last character, of which there is one.
    void pop_back() noexcept;
    /// Wipes all.
    void clear() noexcept;
    /// Room for so many characters, so that `append` moves nothing until then.
    Result<void> reserve(std::size_t characters);

    /// In a time that depends on the sizes only.
    [[nodiscard]] bool equals(std::string_view other) const noexcept;
    friend bool operator==(const SecretString& a, const SecretString& b) noexcept { return a.equals(b.view()); }

private:
    [[nodiscard]] char* characters() const noexcept { return reinterpret_cast<char*>(storage_.data()); }

    SecretHeap* heap_;
    // Invariant: empty, or larger than `size_`, and zero from `size_` on.
    SecretBytes storage_;
    std::size_t size_ = 0;
};

std::ostream& operator<<(std::ostream&, const SecretString&) = delete;

}  // namespace harena

template <>
struct fmt::formatter<harena::SecretString> {
    formatter() = delete;
};
