// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_bytes.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace harena {

Result<SecretBytes> SecretBytes::create(SecretHeap& heap, std::size_t bytes, const SecretAllocOptions& options) {
    if (bytes == 0) return SecretBytes{heap, nullptr, 0};
    HARENA_TRY(void* const data, heap.alloc(bytes, options));
    return SecretBytes{heap, static_cast<std::byte*>(data), bytes};
}

Result<SecretBytes> SecretBytes::copy_of(SecretHeap& heap, std::span<const std::byte> bytes) {
    HARENA_TRY(SecretBytes made, create(heap, bytes.size()));
    if (!bytes.empty()) std::memcpy(made.data_, bytes.data(), bytes.size());
    return made;
}

Result<SecretBytes> SecretBytes::copy() const {
    if (heap_ == nullptr) return SecretBytes{};
    return copy_of(*heap_, bytes());
}

Result<void> SecretBytes::resize(std::size_t bytes) {
    if (bytes == size_) return {};
    if (heap_ == nullptr) return fail(EINVAL, "a secret that was made without a heap cannot grow to {} bytes", bytes);
    HARENA_TRY(SecretBytes other, create(*heap_, bytes));
    if (const std::size_t kept = std::min(bytes, size_); kept > 0) std::memcpy(other.data_, data_, kept);
    *this = std::move(other);
    return {};
}

void SecretBytes::reset() noexcept {
    if (data_ != nullptr) (void)heap_->free(data_);
    data_ = nullptr;
    size_ = 0;
}

}  // namespace harena
