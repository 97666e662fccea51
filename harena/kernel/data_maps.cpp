// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/data_maps.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "harena/base/not_inherited.hpp"
#include "harena/base/os/bpf.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"
#include "harena/kernel/refusal.hpp"

namespace harena::kernel {

namespace {

// Source: Linux, include/uapi/linux/bpf.h.
constexpr std::uint32_t k_readonly_for_programs = 1U << 7;
constexpr std::uint32_t k_mmapable = 1U << 10;

Result<os::FileDescriptor> make_map(const bpf::DataSection& section, const bpf::DataMemory& memory, int btf,
                                    std::uint32_t type) {
    const std::string what = fmt::format("the map of section {} ({} bytes)", section.name, memory.size);
    os::BpfMapSpec spec{.type = bpf::map_type::array,
                        .key_size = 4,
                        .value_size = static_cast<std::uint32_t>(memory.size),
                        .max_entries = 1,
                        .flags = k_mmapable | (memory.read_only ? k_readonly_for_programs : 0),
                        .map_extra = 0,
                        .name = section.name,
                        .btf = btf,
                        .key_type = 0,
                        .value_type = type};
    auto map = os::bpf_map_create(spec);
    if (!map && btf >= 0) {  // types are for tools that look at the map: it works without
        spec.btf = -1;
        map = os::bpf_map_create(spec);
    }
    if (!map) return pass_on(refusal(map.error(), what, ""));
    constexpr std::uint32_t k_first = 0;
    if (const auto filled = os::bpf_map_update(map->get(), &k_first, memory.address, 0); !filled)
        return pass_on(refusal(filled.error(), what, "its contents"));
    // The verifier takes the values of a frozen map as constants.
    if (memory.read_only)
        if (const auto frozen = os::bpf_map_freeze(map->get()); !frozen)
            return pass_on(refusal(frozen.error(), what, "freezing it"));
    return std::move(*map);
}

std::uint64_t mapped_bytes(const bpf::DataMemory& memory) noexcept { return align_up(memory.size, k_page_size); }

/// Keeps the range of `memory` from forked children for as long as it lives.
Result<void> keep_from_children(bpf::DataMemory& memory) {
    struct Kept {
        std::shared_ptr<std::byte> memory;
        NotInherited not_inherited;  // destroyed first
    };
    HARENA_TRY(NotInherited not_inherited, NotInherited::of(memory.address, mapped_bytes(memory)));
    auto kept = std::make_shared<Kept>(memory.owner, std::move(not_inherited));
    memory.owner = {kept, memory.address};
    return {};
}

}  // namespace

Result<DataMaps> DataMaps::create(const bpf::ObjectFile& file, const std::vector<bpf::DataMemory>& data,
                                  const ObjectBtf& btf) {
    DataMaps maps;
    maps.maps_.resize(data.size());
    for (std::size_t i = 0; i < data.size(); ++i) {
        const bpf::DataSection& section = file.data[i];
        if (section.kind == bpf::DataSection::Kind::arena || data[i].size == 0) continue;
        if (!is_aligned(reinterpret_cast<std::uint64_t>(data[i].address), k_page_size))
            return fail(EINVAL, "the memory of section {} is not page aligned: use make_data_memory", section.name);
        const bool typed = btf.fd.get() >= 0 && btf.sized_data[i];
        HARENA_TRY(maps.maps_[i], make_map(section, data[i], typed ? btf.fd.get() : -1,
                                           typed ? file.btf->find_data_section(section.name) : bpf::k_no_type));
    }
    return maps;
}

std::vector<int> DataMaps::fds() const {
    std::vector<int> fds;
    fds.reserve(maps_.size());
    for (const os::FileDescriptor& map : maps_) fds.push_back(map.get());
    return fds;
}

Result<void> DataMaps::map_over(std::vector<bpf::DataMemory>& data) const {
    // First elsewhere, which can fail and be undone; moving a mapping over another one of its size then needs no
    // memory.
    std::vector<void*> mapped(data.size(), nullptr);
    const auto undo = [&] {
        for (std::size_t i = 0; i < data.size(); ++i)
            if (mapped[i] != nullptr) (void)os::munmap(mapped[i], mapped_bytes(data[i]));
    };
    for (std::size_t i = 0; i < data.size(); ++i) {
        if (maps_[i].get() < 0) continue;
        const int protection = data[i].read_only ? PROT_READ : PROT_READ | PROT_WRITE;
        const auto at = os::mmap(nullptr, mapped_bytes(data[i]), protection, MAP_SHARED, maps_[i].get(), 0);
        if (at) mapped[i] = *at;
        Result<void> kept = at ? keep_from_children(data[i]) : os::fail_with(at.error(), "mmap");
        if (kept) continue;
        undo();
        return fail(kept.error().code(), "the global variables cannot be mapped: {}", kept.error().message());
    }
    for (std::size_t i = 0; i < data.size(); ++i) {
        if (mapped[i] == nullptr) continue;
        // Before it is moved: the range is not inherited, so that what is moved there must not be either.
        const auto kept = os::madvise(mapped[i], mapped_bytes(data[i]), MADV_DONTFORK);
        const auto moved = kept ? os::mremap_over(mapped[i], mapped_bytes(data[i]), data[i].address) : kept;
        if (!moved) {
            undo();
            return os::fail_with(moved.error(), "the global variables cannot be mapped in place");
        }
        mapped[i] = nullptr;
    }
    return {};
}

}  // namespace harena::kernel
