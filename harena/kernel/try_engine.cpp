// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "harena/bpf/map.hpp"
#include "harena/kernel/fault_tap.hpp"
#include "harena/kernel/kernel_arena.hpp"
#include "harena/kernel/kernel_engine.hpp"

namespace harena::kernel {

namespace {
constexpr std::uint32_t k_mmapable = 1U << 10;
}

Result<EngineReport> try_engine() {
    bpf::MapDefinition definition;
    definition.name = "harena_try";
    definition.type = bpf::map_type::arena;
    definition.max_entries = 2;
    definition.flags = k_mmapable;
    HARENA_TRY(const std::shared_ptr<KernelArena> arena, KernelArena::create(definition));
    // Runs a program that allocates, and one that looks at the pages.
    HARENA_TRY(void* const page, arena->alloc_pages(PageCount{1}));
    *static_cast<volatile std::byte*>(page) = std::byte{1};
    HARENA_TRY(const ArenaStatistics statistics, arena->statistics());
    if (statistics.used != PageCount{1})
        return fail(EIO, "one page of an arena in the kernel was allocated, and {} are there", statistics.used.value());
    HARENA_CHECK_OK(arena->free_pages(page, PageCount{1}));
    EngineReport report;
    if (const auto tap = FaultTap::get(); !tap) report.no_faults = tap.error().message();
    return report;
}

}  // namespace harena::kernel
