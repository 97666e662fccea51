// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/secret_resource.hpp"

#include <algorithm>
#include <new>

namespace harena {

void* SecretResource::do_allocate(std::size_t bytes, std::size_t alignment) {
    const auto allocated =
        heap_->alloc(std::max<std::size_t>(1, bytes), {.alignment = std::max<std::size_t>(16, alignment)});
    if (!allocated) throw std::bad_alloc{};
    return *allocated;
}

void SecretResource::do_deallocate(void* secret, std::size_t /*bytes*/, std::size_t /*alignment*/) {
    (void)heap_->free(secret);
}

bool SecretResource::do_is_equal(const std::pmr::memory_resource& other) const noexcept {
    const auto* const same = dynamic_cast<const SecretResource*>(&other);
    return same != nullptr && same->heap_ == heap_;
}

}  // namespace harena
