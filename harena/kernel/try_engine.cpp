// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <memory>
#include <new>
#include <span>

#include "harena/bpf/data_memory.hpp"
#include "harena/kernel/assembly.hpp"
#include "harena/kernel/kernel_engine.hpp"
#include "harena/kernel/kernel_program.hpp"

namespace harena::kernel {

namespace {

constexpr std::uint32_t k_mmapable = 1U << 10;

/// An object with an arena of two pages and a program that reads at the address in its context.
bpf::ObjectFile trial() {
    Assembly a;
    a.load(bpf::Size::dw, 2, 1, 0);
    a.load_map(1, 0);
    a.cast_to_program(2, 2);
    a.load(bpf::Size::dw, 0, 2, 0);
    a.exit();
    bpf::ObjectFile file;
    file.name = "harena's trial";
    file.license = "GPL";
    file.instructions = a.instructions();
    file.instructions[1].src = 0;
    file.references.push_back({.insn = 1, .kind = bpf::Reference::Kind::map, .target = 0, .addend = 0});
    bpf::MapDefinition arena;
    arena.name = "harena_try";
    arena.type = bpf::map_type::arena;
    arena.max_entries = 2;
    arena.flags = k_mmapable;
    file.maps.push_back(std::move(arena));
    bpf::Function reader;
    reader.name = "harena_try";
    reader.end = static_cast<std::uint32_t>(file.instructions.size());
    reader.is_program = reader.is_global = true;
    reader.type = bpf::ProgramType::syscall;
    file.functions.push_back(std::move(reader));
    return file;
}

/// Reads an absent page, and wants to hear of it.
Result<void> try_fault(KernelProgram& reader, const Arena& arena) {
    HARENA_CHECK_OK(reader.counts_faults());
    std::uint64_t address = arena.user_vm_start().value() + k_page_size;
    HARENA_TRY(const bpf::RunResult result, reader.run(std::as_writable_bytes(std::span{&address, 1}), {}));
    if (!result.faults_known || result.fault_count != 1)
        return fail(EIO, "a program read one absent page, and {} faults were seen", result.fault_count);
    return {};
}

}  // namespace

Result<EngineReport> try_engine() try {
    HARENA_TRY(const bpf::LoadedObject loaded, engine().load(std::make_shared<const bpf::ObjectFile>(trial()), {}, {}));
    // Runs a program that allocates, and one that looks at the pages.
    Arena& arena = *loaded.arena;
    HARENA_TRY(void* const page, arena.alloc_pages(PageCount{1}, {.address = arena.data()}));
    *static_cast<volatile std::byte*>(page) = std::byte{1};
    HARENA_TRY(const ArenaStatistics statistics, arena.statistics());
    if (statistics.used != PageCount{1})
        return fail(EIO, "one page of an arena in the kernel was allocated, and {} are there", statistics.used.value());
    EngineReport report;
    if (const auto seen = try_fault(dynamic_cast<KernelProgram&>(*loaded.programs.front()), arena); !seen)
        report.no_faults = seen.error().message();
    HARENA_CHECK_OK(arena.free_pages(page, PageCount{1}));
    return report;
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to try the kernel engine");
}

}  // namespace harena::kernel
