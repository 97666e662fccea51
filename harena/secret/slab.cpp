// SPDX-License-Identifier: Apache-2.0
#include "harena/secret/slab.hpp"

namespace harena {

void Slab::explain(std::uint32_t i, std::uint32_t before) const noexcept {
    std::byte* const at = slot(i);
    const std::size_t bytes = before & k_size_mask;
    const auto canary_is_intact = [this](std::uint32_t k) { return canary(k).intact(slot(k) + size_class().room()); };
    // Without its key, nothing of the page is right: something was written before its first slot.
    const std::uint32_t last = size_class().slots - 1;
    if (!canary_is_intact(0) && !canary_is_intact(last / 2) && !canary_is_intact(last))
        stop_after(Violation::underrun, slot(0));
    if (before != word(canary(i), bytes)) stop_after(Violation::record_overwritten, at);
    if (bytes == 0) stop_after(Violation::double_free, at);
    if (i != 0 && !canary_is_intact(i - 1) && canary_is_intact(i)) stop_after(Violation::underrun, at, bytes);
    stop_after(Violation::overrun, at, bytes);
}

}  // namespace harena
