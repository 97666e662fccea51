// SPDX-License-Identifier: Apache-2.0
#include "harena/base/os/fault_injection.hpp"

#include "harena/base/assert.hpp"

namespace harena::os {

namespace detail {
constinit std::atomic<FaultInjector*> injector{nullptr};
}  // namespace detail

ScopedFaultInjector::ScopedFaultInjector(FaultInjector& injector) noexcept {
    FaultInjector* const before = detail::injector.exchange(&injector, std::memory_order_acq_rel);
    precondition(before == nullptr, "one fault injector at a time");
}

ScopedFaultInjector::~ScopedFaultInjector() { detail::injector.store(nullptr, std::memory_order_release); }

}  // namespace harena::os
