// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "harena/bpf/image.hpp"
#include "harena/bpf/process_program.hpp"
#include "harena/bpf/validate.hpp"

namespace harena::bpf {

namespace {

// Source: Linux, include/uapi/linux/bpf.h.
constexpr std::uint32_t k_mmapable = 1U << 10;
constexpr std::uint32_t k_segv_on_fault = 1U << 17;
constexpr std::uint32_t k_no_user_conv = 1U << 18;

// Whether an arena that is there already is what an object wants.
Result<void> check_fits(const ProcessArena& arena, const MapDefinition& d) {
    if (arena.pages() != PageCount{d.max_entries})
        return fail(EINVAL, "map '{}': max_entries is {}, and arena '{}', which is to be used, has {} pages", d.name,
                    d.max_entries, arena.name(), arena.pages().value());
    if (d.map_extra != 0 && arena.user_vm_start() != UserAddress{d.map_extra})
        return fail(EINVAL, "map '{}': map_extra is {:#x}, and arena '{}', which is to be used, is at {:#x}", d.name,
                    d.map_extra, arena.name(), arena.user_vm_start().value());
    if (arena.segv_on_fault() != ((d.flags & k_segv_on_fault) != 0) ||
        arena.no_user_conv() != ((d.flags & k_no_user_conv) != 0))
        return fail(EINVAL, "map '{}': map_flags {:#x} are not those of arena '{}', which is to be used", d.name,
                    d.flags, arena.name());
    return {};
}

Result<std::shared_ptr<ProcessArena>> make_arena(const MapDefinition& d, const LoadOptions& options) {
    if (d.key_size != 0 || d.value_size != 0)
        return fail(EINVAL, "map '{}': an arena has neither keys nor values (key_size {}, value_size {})", d.name,
                    d.key_size, d.value_size);
    if ((d.flags & k_mmapable) == 0)
        return fail(EINVAL, "map '{}': map_flags {:#x} lack BPF_F_MMAPABLE, which an arena needs", d.name, d.flags);
    if (const std::uint32_t unknown = d.flags & ~(k_mmapable | k_segv_on_fault | k_no_user_conv); unknown != 0)
        return fail(EINVAL, "map '{}': map_flags {:#x} are not known for an arena", d.name, unknown);
    if (options.arena != nullptr) {
        HARENA_CHECK_OK(check_fits(*options.arena, d));
        return options.arena;
    }
    return ProcessArena::create({.name = d.name,
                                 .pages = PageCount{d.max_entries},
                                 .user_vm_start = UserAddress{d.map_extra},
                                 .segv_on_fault = (d.flags & k_segv_on_fault) != 0,
                                 .no_user_conv = (d.flags & k_no_user_conv) != 0,
                                 .tuning = options.tuning});
}

/// Makes one object runnable, step by step.
class Loader {
public:
    Loader(std::shared_ptr<const ObjectFile> file, std::vector<DataMemory> data, const LoadOptions& options)
        : image_{std::make_shared<Image>()}, options_{options} {
        image_->file = std::move(file);
        image_->data = std::move(data);
        image_->trace = options.trace;
        image_->frame_bytes = options.frame_bytes;
        image_->max_frames = options.max_frames;
    }

    Result<LoadedObject> run() {
        const ObjectFile& file = *image_->file;
        HARENA_CHECK_OK(validate(file, [](std::int32_t id) { return find_helper(id) != nullptr; }));
        HARENA_CHECK_OK(make_maps());
        HARENA_CHECK_OK(place_arena_globals());
        HARENA_CHECK_OK(resolve_data_references());
        HARENA_CHECK_OK(link(*image_));
        LoadedObject loaded{.arena = image_->arena,
                            .maps = {image_->maps.begin(), image_->maps.end()},
                            .programs = {},
                            .data = image_->data};
        for (const Function& function : file.functions)
            if (function.is_program && function.autoload)
                loaded.programs.push_back(std::make_unique<ProcessProgram>(image_, function));
        if (auto filled = fill_program_arrays(); !filled) {
            clear_program_arrays();  // which hold this image by now
            return pass_on(filled.error());
        }
        return loaded;
    }

private:
    Result<void> make_maps() {
        for (const MapDefinition& definition : image_->file->maps) {
            if (definition.type == map_type::arena) {
                if (image_->arena != nullptr)
                    return fail(EINVAL, "map '{}' is a second arena; an object has one at most", definition.name);
                HARENA_TRY(image_->arena, make_arena(definition, options_));
                HARENA_TRY(image_->payer, image_->arena->payer(options_.account));
                image_->maps.push_back(std::make_shared<ArenaMap>(definition));
            } else {
                HARENA_TRY(auto map, ProcessMap::create(definition));
                image_->maps.push_back(std::move(map));
            }
        }
        return {};
    }

    // The `__arena` globals: whole pages at the end of the arena.
    Result<void> place_arena_globals() {
        for (std::size_t i = 0; i < image_->data.size(); ++i) {
            const DataSection& section = image_->file->data[i];
            if (section.kind != DataSection::Kind::arena || section.initial.empty()) continue;
            if (image_->arena == nullptr)
                return fail(EINVAL, "section {} holds globals for an arena, and the object has none", section.name);
            Arena& arena = *image_->arena;
            const PageCount pages = pages_for(section.initial.size());
            if (pages > arena.pages())
                return fail(E2BIG, "the arena's globals take {} pages and arena '{}' has {}", pages.value(),
                            arena.name(), arena.pages().value());
            std::byte* const at = arena.data() + arena.size() - harena::bytes_of(pages);
            HARENA_CHECK_OK(arena.alloc_pages(pages, {.address = at}));
            std::memcpy(at, section.initial.data(), section.initial.size());
            image_->data[i].address = at;
        }
        return {};
    }

    // Initialised pointers: into the arena only. Elsewhere they would show an address of the host to programs.
    Result<void> resolve_data_references() {
        const ObjectFile& file = *image_->file;
        for (const DataReference& reference : file.data_references) {
            if (file.data[reference.target].kind != DataSection::Kind::arena)
                return fail(
                    ENOTSUP,
                    "section {} offset {}: a pointer to section {} in an initialised global; only pointers into the "
                    "arena are available",
                    file.data[reference.section].name, reference.offset, file.data[reference.target].name);
            const std::uint64_t address =
                reinterpret_cast<std::uint64_t>(image_->data[reference.target].address) + reference.addend;
            std::memcpy(image_->data[reference.section].address + reference.offset, &address, sizeof address);
        }
        return {};
    }

    Result<void> fill_program_arrays() {
        const ObjectFile& file = *image_->file;
        for (std::size_t i = 0; i < file.maps.size(); ++i) {
            for (const auto& [index, name] : file.maps[i].initial_programs) {
                const Function* const function = file.find_function(name);
                if (function == nullptr || !function->is_program || !function->autoload)
                    return fail(EINVAL, "map '{}' index {}: '{}' is not a loaded program", file.maps[i].name, index,
                                name);
                auto* const array = dynamic_cast<ProgramArray*>(image_->maps[i].get());
                if (array == nullptr || index >= file.maps[i].max_entries)
                    return fail(EINVAL, "map '{}': no place for a program at index {}", file.maps[i].name, index);
                if (const auto type = array->program_type(); type && *type != function->type)
                    return fail(EINVAL, "map '{}' index {}: '{}' is of another program type than those before it",
                                file.maps[i].name, index, name);
                array->set_target(index, {image_, function});
            }
        }
        return {};
    }

    void clear_program_arrays() {
        for (const auto& map : image_->maps)
            if (auto* const array = dynamic_cast<ProgramArray*>(map.get())) array->clear();
    }

    std::shared_ptr<Image> image_;
    const LoadOptions& options_;
};

class ProcessEngine final : public Engine {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "process"; }

    [[nodiscard]] Result<LoadedObject> load(std::shared_ptr<const ObjectFile> file, std::vector<DataMemory> data,
                                            const LoadOptions& options) override try {
        if (options.frame_bytes % 8 != 0 || options.frame_bytes < k_frame_bytes || options.frame_bytes > 32'768)
            return fail(EINVAL, "frame_bytes {} is not a multiple of 8 from 512 to 32768", options.frame_bytes);
        if (options.max_frames < 1 || options.max_frames > 64)
            return fail(EINVAL, "max_frames {} is not 1 to 64", options.max_frames);
        return Loader{std::move(file), std::move(data), options}.run();
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "no memory to load the object");
    }
};

}  // namespace

Engine& Engine::process() noexcept {
    static ProcessEngine engine;
    return engine;
}

}  // namespace harena::bpf
