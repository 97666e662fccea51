// SPDX-License-Identifier: Apache-2.0
#include "harena/kernel/data_maps.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

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

Result<os::FileDescriptor> make_map(const bpf::DataSection& section, const bpf::DataMemory& memory,
                                    const std::byte* contents, int btf, std::uint32_t type) {
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
    if (const auto filled = os::bpf_map_update(map->get(), &k_first, contents, 0); !filled)
        return pass_on(refusal(filled.error(), what, "its contents"));
    // The verifier takes the values of a frozen map as constants.
    if (memory.read_only)
        if (const auto frozen = os::bpf_map_freeze(map->get()); !frozen)
            return pass_on(refusal(frozen.error(), what, "freezing it"));
    return std::move(*map);
}

std::uint64_t mapped_bytes(const bpf::DataMemory& memory) noexcept { return align_up(memory.size, k_page_size); }

/// Owns a section's memory, and keeps its range from forked children.
class Kept {
public:
    Kept(const bpf::DataMemory& memory, NotInherited not_inherited) noexcept
        : bytes_{mapped_bytes(memory)}, memory_{memory.owner}, not_inherited_{std::move(not_inherited)} {}
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    ~Kept() {
        // The map's memory is gone before children may inherit the range; after a failed load, others own it, too.
        constexpr int k_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
        if (memory_.use_count() == 1) (void)os::mmap(memory_.get(), bytes_, PROT_NONE, k_flags, -1, 0);
    }

    [[nodiscard]] const NotInherited& not_inherited() const noexcept { return not_inherited_; }

private:
    std::uint64_t bytes_;
    std::shared_ptr<std::byte> memory_;
    NotInherited not_inherited_;  // destroyed first
};

Result<std::shared_ptr<Kept>> keep_from_children(bpf::DataMemory& memory) {
    HARENA_TRY(NotInherited not_inherited, NotInherited::of(memory.address, mapped_bytes(memory)));
    auto kept = std::make_shared<Kept>(memory, std::move(not_inherited));
    memory.owner = {kept, memory.address};
    return kept;
}

/// A copy of a section's memory, with which it can be made again what it was.
class Saved {
public:
    [[nodiscard]] static Result<Saved> of(const bpf::DataMemory& memory) {
        const std::uint64_t bytes = mapped_bytes(memory);
        const auto copy = os::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (!copy) return os::fail_with(copy.error(), "no memory for a copy of the global variables");
        std::memcpy(*copy, memory.address, bytes);
        return Saved{static_cast<std::byte*>(*copy), bytes, memory.address};
    }
    Saved(Saved&& other) noexcept
        : copy_{std::exchange(other.copy_, nullptr)}, bytes_{other.bytes_}, place_{other.place_} {}
    Saved& operator=(Saved&&) = delete;
    Saved(const Saved&) = delete;
    Saved& operator=(const Saved&) = delete;
    ~Saved() {
        if (copy_ != nullptr) (void)os::munmap(copy_, bytes_);
    }

    void put_back() noexcept {
        if (os::mremap_over(copy_, bytes_, place_)) copy_ = nullptr;
    }

private:
    Saved(std::byte* copy, std::uint64_t bytes, std::byte* place) noexcept
        : copy_{copy}, bytes_{bytes}, place_{place} {}

    std::byte* copy_;  // null: moved
    std::uint64_t bytes_;
    std::byte* place_;
};

}  // namespace

Result<DataMaps> DataMaps::create(const bpf::ObjectFile& file, const std::vector<bpf::DataMemory>& data,
                                  const std::vector<const std::byte*>& contents, const ObjectBtf& btf) {
    DataMaps maps;
    maps.maps_.resize(data.size());
    for (std::size_t i = 0; i < data.size(); ++i) {
        const bpf::DataSection& section = file.data[i];
        if (section.kind == bpf::DataSection::Kind::arena || data[i].size == 0) continue;
        if (!is_aligned(reinterpret_cast<std::uint64_t>(data[i].address), k_page_size))
            return fail(EINVAL, "the memory of section {} is not page aligned: use make_data_memory", section.name);
        const bool typed = btf.fd.get() >= 0 && btf.sized_data[i];
        HARENA_TRY(maps.maps_[i], make_map(section, data[i], contents[i], typed ? btf.fd.get() : -1,
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
    struct Step {
        const bpf::DataMemory& memory;
        int map;
        std::shared_ptr<Kept> kept;
        Saved saved;
    };
    std::vector<Step> steps;  // all before the first is made: to take them back then needs no memory
    for (std::size_t i = 0; i < data.size(); ++i) {
        if (maps_[i].get() < 0) continue;
        HARENA_TRY(Saved saved, Saved::of(data[i]));
        HARENA_TRY(auto kept, keep_from_children(data[i]));
        steps.push_back({data[i], maps_[i].get(), std::move(kept), std::move(saved)});
    }
    for (auto step = steps.begin(); step != steps.end(); ++step) {
        const int protection = step->memory.read_only ? PROT_READ : PROT_READ | PROT_WRITE;
        const auto mapped = os::mmap(step->memory.address, mapped_bytes(step->memory), protection,
                                     MAP_SHARED | MAP_FIXED, step->map, 0);
        const Result<void> done =
            mapped ? step->kept->not_inherited().replaced() : os::fail_with(mapped.error(), "mmap");
        if (done) continue;
        for (auto made = steps.begin(); made <= step; ++made) made->saved.put_back();
        return fail(done.error().code(), "the global variables cannot be mapped in place: {}", done.error().message());
    }
    return {};
}

}  // namespace harena::kernel
