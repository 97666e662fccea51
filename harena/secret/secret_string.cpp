// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_string.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace harena {

namespace {

std::span<const std::byte> bytes_of_text(std::string_view text) noexcept {
    return std::as_bytes(std::span{text.data(), text.size()});
}

}  // namespace

Result<SecretString> SecretString::from(SecretHeap& heap, std::string_view text) {
    SecretString made{heap};
    HARENA_CHECK_OK(made.append(text));
    return made;
}

const char* SecretString::c_str() const noexcept { return storage_.empty() ? "" : characters(); }

Result<void> SecretString::reserve(std::size_t characters) {
    if (characters < storage_.size()) return {};
    if (characters > SIZE_MAX / 2) return fail(ENOMEM, "a secret string of {} characters", characters);
    HARENA_TRY(SecretBytes larger, SecretBytes::create(*heap_, characters + 1));
    if (size_ > 0) std::memcpy(larger.data(), storage_.data(), size_);
    storage_ = std::move(larger);
    return {};
}

Result<void> SecretString::append(std::string_view text) {
    if (text.empty()) return {};
    const std::size_t size = size_ + text.size();
    if (size < storage_.size()) {
        std::memmove(characters() + size_, text.data(), text.size());
    } else {
        if (size > SIZE_MAX / 4) return fail(ENOMEM, "a secret string of {} characters", size);
        HARENA_TRY(SecretBytes larger, SecretBytes::create(*heap_, std::max(size + 1, 2 * storage_.size())));
        if (size_ > 0) std::memcpy(larger.data(), storage_.data(), size_);
        std::memcpy(larger.data() + size_, text.data(), text.size());  // before the old ones go: it may be of those
        storage_ = std::move(larger);
    }
    size_ = size;
    return {};
}

void SecretString::pop_back() noexcept { wipe(characters() + --size_, 1); }

void SecretString::clear() noexcept {
    wipe(storage_.data(), size_);
    size_ = 0;
}

bool SecretString::equals(std::string_view other) const noexcept {
    return equal_in_constant_time(bytes_of_text(view()), bytes_of_text(other));
}

}  // namespace harena
