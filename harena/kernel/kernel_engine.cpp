// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/kernel_engine.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <span>
#include <unordered_map>

#include "harena/base/immortal.hpp"
#include "harena/bpf/validate.hpp"
#include "harena/kernel/data_maps.hpp"
#include "harena/kernel/kernel_arena.hpp"
#include "harena/kernel/kernel_map.hpp"
#include "harena/kernel/kernel_program.hpp"
#include "harena/kernel/kernel_types.hpp"
#include "harena/kernel/load_program.hpp"
#include "harena/kernel/object_btf.hpp"
#include "harena/kernel/program_code.hpp"

namespace harena::kernel {

namespace {

/// Source: Linux, include/uapi/linux/bpf.h, enum bpf_prog_type. What has no known type runs as a syscall program does.
std::uint32_t kernel_type(bpf::ProgramType type) noexcept {
    switch (type) {
        case bpf::ProgramType::xdp:
            return 6;
        case bpf::ProgramType::tc:
            return 3;
        case bpf::ProgramType::socket:
            return 1;
        case bpf::ProgramType::syscall:
        case bpf::ProgramType::unspecified:
            break;
    }
    return k_program_syscall;
}

/// Brings one object into the kernel, step by step.
class Loader {
public:
    Loader(std::shared_ptr<const bpf::ObjectFile> file, std::vector<bpf::DataMemory> data,
           const bpf::LoadOptions& options)
        : file_{std::move(file)}, options_{options} {
        loaded_.data = std::move(data);
    }

    Result<bpf::LoadedObject> run() {
        HARENA_CHECK_OK(bpf::validate(*file_, [](std::int32_t) { return true; }));
        // First, so that a kernel without arenas says so, and not what else it does not know.
        HARENA_CHECK_OK(make_arena());
        HARENA_TRY(btf_, load_btf(*file_));
        HARENA_CHECK_OK(make_maps());
        HARENA_CHECK_OK(place_arena_globals());
        HARENA_CHECK_OK(resolve_data_references());
        HARENA_TRY(const DataMaps data_maps, DataMaps::create(*file_, loaded_.data, contents(), btf_));
        targets_.data = data_maps.fds();
        HARENA_CHECK_OK(find_externs());
        group_ = std::make_shared<ProgramGroup>(file_, arena_);
        for (const bpf::Function& function : file_->functions)
            if (function.is_program && function.autoload) HARENA_CHECK_OK(load(function));
        HARENA_CHECK_OK(fill_program_arrays());
        HARENA_CHECK_OK(data_maps.map_over(loaded_.data));
        return std::move(loaded_);
    }

private:
    Result<void> make_arena() {
        for (std::uint32_t i = 0; i < file_->maps.size(); ++i) {
            if (file_->maps[i].type != bpf::map_type::arena) continue;
            if (arena_ != nullptr)
                return fail(EINVAL, "map '{}' is a second arena; an object has one at most", file_->maps[i].name);
            targets_.arena = i;
            HARENA_TRY(arena_, KernelArena::create(file_->maps[i]));
            loaded_.arena = arena_;
        }
        return {};
    }

    Result<void> make_maps() {
        for (const bpf::MapDefinition& definition : file_->maps) {
            if (definition.type == bpf::map_type::arena) {
                targets_.maps.push_back(arena_->fd());
                loaded_.maps.push_back(std::make_shared<KernelMap>(definition, os::FileDescriptor{}));
            } else {
                HARENA_TRY(auto map, KernelMap::create(definition, btf_.fd.get()));
                targets_.maps.push_back(map->fd());
                loaded_.maps.push_back(std::move(map));
            }
        }
        return {};
    }

    // The `__arena` globals: whole pages at the end of the arena.
    Result<void> place_arena_globals() {
        targets_.addresses.resize(file_->data.size());
        for (std::size_t i = 0; i < file_->data.size(); ++i) {
            const bpf::DataSection& section = file_->data[i];
            if (section.kind != bpf::DataSection::Kind::arena || section.initial.empty()) continue;
            if (arena_ == nullptr)
                return fail(EINVAL, "section {} holds globals for an arena, and the object has none", section.name);
            KernelArena& arena = *arena_;
            const PageCount pages = pages_for(section.initial.size());
            if (pages > arena.pages())
                return fail(E2BIG, "the arena's globals take {} pages and arena '{}' has {}", pages.value(),
                            arena.name(), arena.pages().value());
            std::byte* const at = arena.data() + arena.size() - harena::bytes_of(pages);
            HARENA_CHECK_OK(arena.alloc_pages(pages, {.address = at}));
            std::memcpy(at, section.initial.data(), section.initial.size());
            loaded_.data[i].address = at;
            targets_.addresses[i] = reinterpret_cast<std::uint64_t>(at);
        }
        return {};
    }

    // Initialised pointers: into the arena only, as in the engine of the process. The caller's memory stays as it is:
    // it is the object's if loading fails.
    Result<void> resolve_data_references() {
        for (const bpf::DataReference& reference : file_->data_references) {
            const bpf::DataSection& target = file_->data[reference.target];
            if (target.kind != bpf::DataSection::Kind::arena)
                return fail(
                    ENOTSUP,
                    "section {} offset {}: a pointer to section {} in an initialised global; only pointers into "
                    "the arena are available",
                    file_->data[reference.section].name, reference.offset, target.name);
            const std::uint64_t address = targets_.addresses[reference.target] + reference.addend;
            std::memcpy(writable(reference.section) + reference.offset, &address, sizeof address);
        }
        return {};
    }

    // A section's contents with addresses in them: in the arena at once, else in a copy.
    std::byte* writable(std::uint32_t section) {
        const bpf::DataMemory& memory = loaded_.data[section];
        if (file_->data[section].kind == bpf::DataSection::Kind::arena) return memory.address;
        std::vector<std::byte>& copy = resolved_[section];
        if (copy.empty()) copy.assign(memory.address, memory.address + memory.size);
        return copy.data();
    }

    [[nodiscard]] std::vector<const std::byte*> contents() const {
        std::vector<const std::byte*> all;
        all.reserve(loaded_.data.size());
        for (std::uint32_t i = 0; i < loaded_.data.size(); ++i) {
            const auto copy = resolved_.find(i);
            all.push_back(copy == resolved_.end() ? loaded_.data[i].address : copy->second.data());
        }
        return all;
    }

    Result<void> find_externs() {
        if (file_->externs.empty()) return {};
        HARENA_TRY(const KernelTypes* const types, KernelTypes::get());
        for (const bpf::Extern& wanted : file_->externs)
            targets_.externs.push_back(
                (wanted.is_function ? types->function(wanted.name) : types->variable(wanted.name)).value_or(0));
        return {};
    }

    Result<void> load(const bpf::Function& function) {
        HARENA_TRY(ProgramCode code, assemble(*file_, function, targets_, btf_));
        os::BpfProgramSpec spec;
        spec.type = kernel_type(function.type);
        spec.flags = spec.type == k_program_syscall ? k_program_sleepable : 0;
        spec.name = function.name;
        spec.license = file_->license.c_str();
        spec.instructions = code.instructions.data();
        spec.instruction_count = static_cast<std::uint32_t>(code.instructions.size());
        if (!code.functions.empty()) {
            spec.btf = btf_.fd.get();
            spec.function_records = std::as_bytes(std::span{code.functions});
            spec.function_record_size = sizeof(bpf_func_info);
            spec.line_records = std::as_bytes(std::span{code.lines});
            spec.line_record_size = sizeof(bpf_line_info);
        }
        const auto place = [&](std::uint32_t insn) {
            return insn < code.origin.size() ? file_->describe_place(code.origin[insn])
                                             : fmt::format("instruction {}", insn);
        };
        HARENA_TRY(os::FileDescriptor fd,
                   load_program(spec, fmt::format("program '{}'", function.name), options_.verbose_log, place));
        group_->add(fd.get(), std::move(code));
        loaded_.programs.push_back(std::make_unique<KernelProgram>(std::move(fd), group_, function));
        return {};
    }

    Result<void> fill_program_arrays() {
        for (std::size_t i = 0; i < file_->maps.size(); ++i) {
            for (const auto& [index, name] : file_->maps[i].initial_programs) {
                const auto program = std::ranges::find(loaded_.programs, name, [](const auto& p) { return p->name(); });
                if (program == loaded_.programs.end())
                    return fail(EINVAL, "map '{}' index {}: '{}' is not a loaded program", file_->maps[i].name, index,
                                name);
                HARENA_CHECK_OK(loaded_.maps[i]->set_program(index, **program));
            }
        }
        return {};
    }

    std::shared_ptr<const bpf::ObjectFile> file_;
    const bpf::LoadOptions& options_;
    std::shared_ptr<ProgramGroup> group_;
    bpf::LoadedObject loaded_;
    std::shared_ptr<KernelArena> arena_;
    ObjectBtf btf_;
    Targets targets_;
    std::unordered_map<std::uint32_t, std::vector<std::byte>> resolved_;  // by section
};

class KernelEngine final : public bpf::Engine {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "kernel"; }

    [[nodiscard]] Result<bpf::LoadedObject> load(std::shared_ptr<const bpf::ObjectFile> file,
                                                 std::vector<bpf::DataMemory> data,
                                                 const bpf::LoadOptions& options) override try {
        if (options.frame_bytes != bpf::k_frame_bytes || options.max_frames != bpf::k_max_frames)
            return fail(ENOTSUP,
                        "Linux gives a program {} frames of {} bytes: leave max_frames and frame_bytes as they are",
                        bpf::k_max_frames, bpf::k_frame_bytes);
        return Loader{std::move(file), std::move(data), options}.run();
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory to load the object");
    }
};

}  // namespace

bpf::Engine& engine() noexcept {
    static KernelEngine engine;
    return engine;
}

}  // namespace harena::kernel
