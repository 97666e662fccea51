// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_symbols.hpp"

#include <new>
#include <utility>

namespace harena {

Result<TextSymbols> TextSymbols::create(const TextSymbolOptions& options) {
    TextSymbols symbols;
    if (options.perf_map) {
        HARENA_TRY(PerfMap map, PerfMap::open());
        symbols.perf_map_.emplace(std::move(map));
    }
    if (!options.jit_dump_folder.empty()) {
        HARENA_TRY(symbols.jit_dump_, JitDump::of_process(std::string{options.jit_dump_folder}));
    }
    symbols.gdb_ = options.gdb;
    return symbols;
}

void TextSymbols::add(std::uint64_t address, std::uint64_t bytes, std::string_view name) noexcept {
    if (name.empty()) return;
    try {
        if (perf_map_ && !perf_map_->add(address, bytes, name)) ++failures_;
        if (jit_dump_) unwritten_.insert_or_assign(address, std::string{name});
        if (gdb_) gdb_symbols_.insert_or_assign(address, GdbSymbol{address, bytes, name});
    } catch (const std::bad_alloc&) {
        ++failures_;
    }
}

void TextSymbols::dump(std::uint64_t address, std::uint64_t bytes) noexcept {
    const auto piece = unwritten_.find(address);
    if (piece == unwritten_.end()) return;
    try {
        if (!jit_dump_->add(address, {reinterpret_cast<const std::byte*>(address), bytes}, piece->second)) ++failures_;
    } catch (const std::bad_alloc&) {
        ++failures_;
    }
    unwritten_.erase(piece);
}

void TextSymbols::drop(std::uint64_t address) noexcept {
    gdb_symbols_.erase(address);
    unwritten_.erase(address);
}

}  // namespace harena
