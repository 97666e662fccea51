// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/fault.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace harena::bpf {

std::string to_text(const Fault& fault) {
    return fmt::format("ERROR: Arena {} access at unmapped address {:#x}\n  {}",
                       fault.access == Fault::Access::read ? "READ" : "WRITE", fault.address.value(), fault.place);
}

void FaultLog::add(std::uint64_t count, const std::vector<Fault>& faults) {
    const std::lock_guard lock{mutex_};
    count_ += count;
    for (const Fault& fault : faults) {
        if (ring_.size() < k_kept) {
            ring_.push_back(fault);
        } else {
            ring_[oldest_] = fault;
            oldest_ = (oldest_ + 1) % k_kept;
        }
    }
}

std::uint64_t FaultLog::count() const {
    const std::lock_guard lock{mutex_};
    return count_;
}

std::vector<Fault> FaultLog::last() const {
    const std::lock_guard lock{mutex_};
    std::vector<Fault> ordered = ring_;
    std::ranges::rotate(ordered, ordered.begin() + static_cast<std::ptrdiff_t>(oldest_));
    return ordered;
}

}  // namespace harena::bpf
