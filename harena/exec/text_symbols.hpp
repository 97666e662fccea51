// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "harena/exec/gdb_jit.hpp"
#include "harena/exec/jit_dump.hpp"
#include "harena/exec/perf_map.hpp"

namespace harena {

/// Which tools learn the names of pieces.
struct TextSymbolOptions {
    /// /tmp/perf-PID.map: a line a piece, for tools that go by addresses.
    bool perf_map = false;
    /// The folder of jit-PID.dump, from which `perf inject --jit` learns names and contents; empty: none is written.
    std::string_view jit_dump_folder = {};
    /// The interface of debuggers for generated code (gdb, lldb).
    bool gdb = false;
};

/// Tells tools the names of one space's pieces. Not thread-safe.
class TextSymbols {
public:
    /// Errors: those of `PerfMap::open`.
    [[nodiscard]] static Result<TextSymbols> create(const TextSymbolOptions& options);

    /// A piece that is called `name`. What cannot be told is counted, of all of these.
    void add(std::uint64_t address, std::uint64_t bytes, std::string_view name) noexcept;
    /// A piece that was written for the first time; `address` may be that of one without a name.
    void written(std::uint64_t address, std::uint64_t bytes) noexcept {
        if (!unwritten_.empty()) [[unlikely]]
            dump(address, bytes);
    }
    /// It is nobody's text any more. A perf map only grows: perf goes by the last entry of an address.
    void remove(std::uint64_t address) noexcept {
        if (!gdb_symbols_.empty() || !unwritten_.empty()) [[unlikely]]
            drop(address);
    }

    [[nodiscard]] std::uint64_t failures() const noexcept { return failures_; }

private:
    void drop(std::uint64_t address) noexcept;
    void dump(std::uint64_t address, std::uint64_t bytes) noexcept;

    std::optional<PerfMap> perf_map_;
    std::shared_ptr<JitDump> jit_dump_;
    std::map<std::uint64_t, std::string> unwritten_;  // names of pieces that the dump does not have yet
    bool gdb_ = false;
    std::map<std::uint64_t, GdbSymbol> gdb_symbols_;
    std::uint64_t failures_ = 0;
};

}  // namespace harena
