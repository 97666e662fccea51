// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>

#include "harena/exec/gdb_jit.hpp"
#include "harena/exec/perf_map.hpp"

namespace harena {

/// Which tools learn the names of pieces.
struct TextSymbolOptions {
    /// /tmp/perf-PID.map, which `perf report` reads.
    bool perf_map = false;
    /// The interface of debuggers for generated code (gdb, lldb).
    bool gdb = false;
};

/// Tells tools the names of one space's pieces. Not thread-safe.
class TextSymbols {
public:
    /// Errors: those of `PerfMap::open`.
    [[nodiscard]] static Result<TextSymbols> create(const TextSymbolOptions& options);

    /// A piece that is called `name`. What cannot be told is counted.
    void add(std::uint64_t address, std::uint64_t bytes, std::string_view name) noexcept;
    /// It is nobody's text any more. A perf map only grows: perf goes by the last entry of an address.
    void remove(std::uint64_t address) noexcept;

    /// In a child after fork, before this is destroyed.
    void abandon() noexcept;

    [[nodiscard]] std::uint64_t failures() const noexcept { return failures_; }

private:
    std::optional<PerfMap> perf_map_;
    bool gdb_ = false;
    std::map<std::uint64_t, GdbSymbol> gdb_symbols_;
    std::uint64_t failures_ = 0;
};

}  // namespace harena
