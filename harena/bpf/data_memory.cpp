// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/data_memory.hpp"

#include <sys/mman.h>

#include <algorithm>

#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"

namespace harena::bpf {

namespace {

Result<std::shared_ptr<std::byte>> copy_of(const DataSection& section) {
    const std::uint64_t bytes = std::max(k_page_size, align_up(section.initial.size(), k_page_size));
    const auto mapped = os::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!mapped)
        return os::fail_with(mapped.error(), fmt::format("no memory for the {} bytes of section {}",
                                                         section.initial.size(), section.name));
    std::shared_ptr<std::byte> memory{static_cast<std::byte*>(*mapped),
                                      [bytes](std::byte* at) { (void)os::munmap(at, bytes); }};
    std::ranges::copy(section.initial, memory.get());
    return memory;
}

}  // namespace

Result<std::vector<DataMemory>> make_data_memory(const ObjectFile& file) {
    std::vector<DataMemory> data;
    for (const DataSection& section : file.data) {
        DataMemory memory{.address = nullptr,
                          .size = section.initial.size(),
                          .read_only = section.kind == DataSection::Kind::rodata,
                          .owner = nullptr};
        if (section.kind != DataSection::Kind::arena) {
            HARENA_TRY(memory.owner, copy_of(section));
            memory.address = memory.owner.get();
        }
        data.push_back(std::move(memory));
    }
    return data;
}

}  // namespace harena::bpf
