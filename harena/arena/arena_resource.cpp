// SPDX-License-Identifier: Apache-2.0
#include "harena/arena/arena_resource.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/base/assert.hpp"

namespace harena {

void* ArenaResource::do_allocate(std::size_t bytes, std::size_t alignment) {
    const auto allocated = heap_->alloc(std::max<std::size_t>(1, bytes), alignment);
    if (!allocated) throw std::bad_alloc{};
    return *allocated;
}

void ArenaResource::do_deallocate(void* object, std::size_t /*bytes*/, std::size_t /*alignment*/) {
    const auto freed = heap_->free(object);
    precondition(freed || freed.error().code() != EINVAL, "a container freed what it had not allocated");
}

bool ArenaResource::do_is_equal(const std::pmr::memory_resource& other) const noexcept {
    const auto* const same = dynamic_cast<const ArenaResource*>(&other);
    return same != nullptr && same->heap_ == heap_;
}

}  // namespace harena
