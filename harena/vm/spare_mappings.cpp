// SPDX-License-Identifier: Apache-2.0
#include "harena/vm/spare_mappings.hpp"

#include <sys/mman.h>

#include <utility>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena {

Result<void> SpareMappings::make() {
    if (base_ != nullptr) return {};
    const auto mapped =
        os::mmap(nullptr, k_pages * k_page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!mapped) return map_error(mapped.error(), "cannot make the mappings that an address space keeps in reserve");
    base_ = static_cast<std::byte*>(*mapped);
    for (std::size_t page = 1; page < k_pages; page += 2)
        if (const auto split = os::mprotect(base_ + page * k_page_size, k_page_size, PROT_READ); !split) {
            (void)give_up();
            return map_error(split.error(), "cannot make the mappings that an address space keeps in reserve");
        }
    return {};
}

bool SpareMappings::give_up() noexcept {
    if (base_ == nullptr) return false;
    (void)os::munmap(std::exchange(base_, nullptr), k_pages * k_page_size);
    return true;
}

}  // namespace harena
