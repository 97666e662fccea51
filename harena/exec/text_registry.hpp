// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>

#include "harena/base/result.hpp"
#include "harena/base/signal_safe_registry.hpp"

namespace harena {

class TextFile;
class TextPatcher;

/// The spaces of text of this process, for its signal handler and for forks.
namespace text_registry {

struct Record {
    std::uint64_t begin;
    std::uint64_t bytes;
    TextFile* file;
    TextPatcher* patcher;
};
using Handle = SignalSafeRegistry<Record>::Handle;

/// What is done once in a process, before the first space. Errors: ENOMEM. Thread-safe.
[[nodiscard]] Result<void> prepare();

/// No fork happens as long as what this returns is kept: text that is mapped and not yet kept from children, a file
/// that is open and not yet known here.
[[nodiscard]] std::unique_lock<std::mutex> block_forks();

/// Errors: ENOMEM. From now on a child closes the file before fork returns.
[[nodiscard]] Result<Handle> add(const Record& record);
void remove(Handle handle) noexcept;

/// The space that `address` is in. Lock-free, async-signal-safe.
[[nodiscard]] std::optional<Record> find(std::uint64_t address) noexcept;

}  // namespace text_registry
}  // namespace harena
