// SPDX-License-Identifier: Apache-2.0
#include "harena/page/page.hpp"

#include <sys/mman.h>

#include <utility>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"

namespace harena {

Result<PageArray> PageArray::create(std::uint32_t pages) {
    const auto mapped = os::mmap(nullptr, std::size_t{pages} * sizeof(Page), PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!mapped) return map_error(mapped.error(), fmt::format("cannot map the descriptors of {} pages", pages));
    // All zero bytes are a descriptor: an inner page.
    return PageArray{static_cast<Page*>(*mapped), pages};
}

PageArray::PageArray(PageArray&& other) noexcept : pages_{std::exchange(other.pages_, nullptr)}, size_{other.size_} {}

PageArray::~PageArray() {
    if (pages_ != nullptr) (void)os::munmap(pages_, std::size_t{size_} * sizeof(Page));
}

}  // namespace harena
