// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/gdb_jit.hpp"

#include <atomic>
#include <utility>
#include <vector>

#include "harena/exec/symbol_elf.hpp"
#include "harena/exec/text_registry.hpp"

// Names and layout are those that debuggers look for. Weak: another generator of code in the process may bring its own,
// and then there is one list of both.
extern "C" {

struct jit_code_entry {  // NOLINT(readability-identifier-naming)
    jit_code_entry* next_entry;
    jit_code_entry* prev_entry;
    const char* symfile_addr;
    std::uint64_t symfile_size;
};

struct jit_descriptor {  // NOLINT(readability-identifier-naming)
    std::uint32_t version;
    std::uint32_t action_flag;  // 1: `relevant_entry` is new; 2: it goes
    jit_code_entry* relevant_entry;
    jit_code_entry* first_entry;
};

// A debugger has a breakpoint here.
[[gnu::weak, gnu::noinline, gnu::used]] void __jit_debug_register_code() {  // NOLINT
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

[[gnu::weak, gnu::used]] jit_descriptor __jit_debug_descriptor = {1, 0, nullptr, nullptr};  // NOLINT

}  // extern "C"

namespace harena {

namespace {

constexpr std::uint32_t k_register = 1;
constexpr std::uint32_t k_unregister = 2;

// With forks blocked, by which other threads are kept from the list, too: a child finds it whole.
void announce(std::uint32_t action, jit_code_entry& entry) noexcept {
    __jit_debug_descriptor.action_flag = action;
    __jit_debug_descriptor.relevant_entry = &entry;
    __jit_debug_register_code();
}

}  // namespace

struct GdbSymbol::Entry {
    jit_code_entry entry{};
    std::vector<char> file;
};

GdbSymbol::GdbSymbol(std::uint64_t address, std::uint64_t bytes, std::string_view name)
    : entry_{std::make_unique<Entry>()} {
    entry_->file = symbol_elf(address, bytes, name);
    jit_code_entry& entry = entry_->entry;
    entry.symfile_addr = entry_->file.data();
    entry.symfile_size = entry_->file.size();
    const auto lock = text_registry::block_forks();
    entry.next_entry = __jit_debug_descriptor.first_entry;
    if (entry.next_entry != nullptr) entry.next_entry->prev_entry = &entry;
    __jit_debug_descriptor.first_entry = &entry;
    announce(k_register, entry);
}

GdbSymbol::GdbSymbol(GdbSymbol&& other) noexcept = default;
GdbSymbol& GdbSymbol::operator=(GdbSymbol&& other) noexcept {
    std::swap(entry_, other.entry_);
    return *this;
}

GdbSymbol::~GdbSymbol() {
    if (!entry_) return;
    jit_code_entry& entry = entry_->entry;
    const auto lock = text_registry::block_forks();
    if (entry.next_entry != nullptr) entry.next_entry->prev_entry = entry.prev_entry;
    (entry.prev_entry != nullptr ? entry.prev_entry->next_entry : __jit_debug_descriptor.first_entry) =
        entry.next_entry;
    announce(k_unregister, entry);
}

}  // namespace harena
