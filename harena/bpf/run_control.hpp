// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

namespace harena::bpf {

/// The two words that tell a running program about its budget.
struct RunControl {
    /// The budget is used up: every `may_goto` takes its exit.
    std::atomic<bool> soft{false};
    /// The grace is over too: the next safepoint ends the run.
    std::atomic<bool> hard{false};
};

}  // namespace harena::bpf
