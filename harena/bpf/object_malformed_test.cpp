// SPDX-License-Identifier: Apache-2.0
#include <elf.h>

#include <array>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "harena/base/os/file.hpp"
#include "harena/bpf/object_file.hpp"
#include "harena/bpf/object_test_support.hpp"

namespace harena::bpf {

namespace {

using Bytes = std::vector<std::byte>;

constexpr std::array k_objects = {"programs", "maps", "globals", "externs", "callbacks", "programs_o0", "refused_core"};

Bytes bytes_of(std::string_view name) {
    const auto bytes = os::read_file(fmt::format("{}/{}.bpf.o", HARENA_BPF_TEST_OBJECTS, name));
    if (!bytes) ADD_FAILURE() << "cannot read " << name;
    return bytes.value_or(Bytes{});
}

template <typename T>
T load(const Bytes& bytes, std::uint64_t offset) {
    T value;
    std::memcpy(&value, &bytes.at(offset + sizeof value - 1) - (sizeof value - 1), sizeof value);
    return value;
}

struct Region {
    std::uint64_t begin;
    std::uint64_t size;
};

/// The parts of a good object whose bytes decide how the rest is read: header, section headers, all that is not debug
/// information.
std::vector<Region> telling_regions(const Bytes& bytes) {
    const auto header = load<Elf64_Ehdr>(bytes, 0);
    std::vector<Region> regions = {{0, sizeof header}, {header.e_shoff, header.e_shnum * sizeof(Elf64_Shdr)}};
    const auto names = load<Elf64_Shdr>(bytes, header.e_shoff + header.e_shstrndx * sizeof(Elf64_Shdr));
    for (unsigned i = 1; i < header.e_shnum; ++i) {
        const auto section = load<Elf64_Shdr>(bytes, header.e_shoff + i * sizeof(Elf64_Shdr));
        const std::string_view name{reinterpret_cast<const char*>(&bytes.at(names.sh_offset + section.sh_name))};
        const bool dull = name.starts_with(".debug") || name.starts_with(".rel.debug") || name.starts_with(".rel.BTF");
        if (!dull && section.sh_type != SHT_NOBITS && section.sh_size != 0)
            regions.push_back({section.sh_offset, section.sh_size});
    }
    return regions;
}

void expect_sound(const Bytes& bytes, std::string_view how) {
    EXPECT_EQ(test::complaint_about(ObjectFile::parse(bytes, "malformed.o")), "") << how;
}

}  // namespace

TEST(MalformedObject, truncated_objects_are_errors) {
    for (const char* const name : k_objects) {
        const Bytes whole = bytes_of(name);
        // The section headers come last: whatever is cut off, something is missing.
        for (std::size_t size = 0; size < whole.size(); ++size) {
            const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
            const auto object = ObjectFile::parse(cut, "cut.o");
            ASSERT_FALSE(object.has_value()) << name << " cut to " << size;
            ASSERT_EQ(test::complaint_about(object), "") << name << " cut to " << size;
        }
    }
}

TEST(MalformedObject, flipped_bytes_give_sound_objects_or_errors) {
    std::mt19937_64 random{20261};
    const auto below = [&](std::uint64_t limit) { return random() % limit; };
    for (const char* const name : k_objects) {
        const Bytes good = bytes_of(name);
        const std::vector<Region> regions = telling_regions(good);
        for (int round = 0; round < 3000; ++round) {
            Bytes bad = good;
            for (std::uint64_t flips = 1 + below(4); flips > 0; --flips) {
                const Region region = below(8) == 0 ? Region{0, good.size()} : regions[below(regions.size())];
                std::byte& victim = bad.at(region.begin + below(region.size));
                victim =
                    below(2) == 0 ? static_cast<std::byte>(random()) : victim ^ static_cast<std::byte>(1U << below(8));
            }
            expect_sound(bad, fmt::format("{}, round {}", name, round));
            if (HasFailure()) return;
        }
    }
}

TEST(MalformedObject, extreme_words_give_sound_objects_or_errors) {
    constexpr std::array<std::uint32_t, 5> extremes = {0, 1, 0x7fff'ffff, 0x8000'0000, 0xffff'ffff};
    for (const char* const name : {"maps", "globals", "externs"}) {
        const Bytes good = bytes_of(name);
        for (const Region region : telling_regions(good)) {
            for (std::uint64_t at = region.begin; at + 4 <= region.begin + region.size; at += 4) {
                for (const std::uint32_t extreme : extremes) {
                    Bytes bad = good;
                    std::memcpy(&bad[at], &extreme, sizeof extreme);
                    expect_sound(bad, fmt::format("{}, {:#x} at {}", name, extreme, at));
                    if (HasFailure()) return;
                }
            }
        }
    }
}

TEST(MalformedObject, swapped_symbols_and_sections_give_sound_objects_or_errors) {
    // Exchanges whole records, which keeps each of them plausible.
    std::mt19937_64 random{7};
    for (const char* const name : {"programs", "maps", "globals", "callbacks"}) {
        const Bytes good = bytes_of(name);
        const std::vector<Region> regions = telling_regions(good);
        for (int round = 0; round < 1000; ++round) {
            const Region region = regions[random() % regions.size()];
            const std::uint64_t unit = std::array<std::uint64_t, 4>{4, 8, 12, 24}[random() % 4];
            if (region.size < 2 * unit) continue;
            Bytes bad = good;
            const std::uint64_t a = region.begin + random() % (region.size / unit) * unit;
            const std::uint64_t b = region.begin + random() % (region.size / unit) * unit;
            for (std::uint64_t i = 0; i < unit; ++i) std::swap(bad.at(a + i), bad.at(b + i));
            expect_sound(bad, fmt::format("{}, round {}", name, round));
            if (HasFailure()) return;
        }
    }
}

}  // namespace harena::bpf
