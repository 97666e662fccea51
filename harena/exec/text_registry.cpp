// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_registry.hpp"

#include "harena/base/fork.hpp"
#include "harena/base/immortal.hpp"
#include "harena/base/not_inherited.hpp"
#include "harena/base/thread_owned.hpp"
#include "harena/exec/text_file.hpp"

namespace harena::text_registry {

namespace {

constinit Immortal<SignalSafeRegistry<Record>> records;
constinit std::mutex fork_gate;

void before_fork() noexcept {
    fork_gate.lock();
    records.value.lock();
}
void after_fork_in_parent() noexcept {
    records.value.unlock();
    fork_gate.unlock();
}
void after_fork_in_child() noexcept {
    records.value.for_each([](const Record& record) { record.file->abandon_in_child(); });
    records.value.unlock();
    fork_gate.unlock();
}

}  // namespace

Result<void> prepare() {
    // A space is made with the gate held: the locks of these are taken after it, and so at fork.
    HARENA_CHECK_OK(NotInherited::prepare());
    HARENA_CHECK_OK(ThreadOwned::prepare());
    static ForkRules rules;
    return rules.ensure({.prepare = &before_fork, .parent = &after_fork_in_parent, .child = &after_fork_in_child});
}

std::unique_lock<std::mutex> block_forks() { return std::unique_lock{fork_gate}; }

Result<Handle> add(const Record& record) { return records.value.add(record); }
void remove(Handle handle) noexcept { records.value.remove(handle); }

std::optional<Record> find(std::uint64_t address) noexcept {
    return records.value.find_if([address](const Record& record) { return address - record.begin < record.bytes; });
}

}  // namespace harena::text_registry
