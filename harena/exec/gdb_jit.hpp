// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

namespace harena {

/// A piece of text that debuggers know the name of, as long as this object lives, by the interface for generated code
/// of gdb ("JIT Interface" in its manual). Thread-safe: the process has one list, of which a debugger is told at each
/// change. A child after fork inherits the list.
class GdbSymbol {
public:
    /// Throws std::bad_alloc.
    GdbSymbol(std::uint64_t address, std::uint64_t bytes, std::string_view name);
    GdbSymbol(GdbSymbol&& other) noexcept;
    GdbSymbol& operator=(GdbSymbol&& other) noexcept;
    GdbSymbol(const GdbSymbol&) = delete;
    GdbSymbol& operator=(const GdbSymbol&) = delete;
    ~GdbSymbol();

private:
    struct Entry;
    std::unique_ptr<Entry> entry_;
};

}  // namespace harena
