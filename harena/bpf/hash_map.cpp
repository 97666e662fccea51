// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/hash_map.hpp"

#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "harena/arena/nofault.hpp"
#include "harena/base/os/process.hpp"
#include "harena/base/page_math.hpp"

namespace harena::bpf {

namespace {

constexpr std::uint32_t k_max_entries = 1U << 30;
// As in Linux (htab_map_alloc_check, about KMALLOC_MAX_SIZE): a value is copied under the lock, and in one piece
// between two looks at the budget.
constexpr std::uint64_t k_max_element_bytes = (1U << 22) - 64;

// A step of the mixing that splitmix64 ends with: every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t x) noexcept {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

}  // namespace

HashMap::HashMap(const MapDefinition& d)
    : ProcessMap{d},
      key_stride_{align_up(d.key_size, 8)},
      stride_{key_stride_ + align_up(d.value_size, 8)},
      seed_{os::random_u64()},
      buckets_{std::bit_ceil(d.max_entries)},
      links_{d.max_entries},
      elements_{stride_ / 8 * d.max_entries} {}

Result<std::shared_ptr<ProcessMap>> HashMap::create(const MapDefinition& d) {
    constexpr std::uint32_t k_no_prealloc = 1U << 0;  // how the kernel keeps it; all the same here
    if ((d.flags & ~k_no_prealloc) != 0)
        return fail(EINVAL, "map '{}': map_flags {:#x} are not known for HASH", d.name, d.flags);
    if (d.max_entries > k_max_entries)
        return fail(E2BIG, "map '{}': {} entries are more than {}", d.name, d.max_entries, k_max_entries);
    if (std::uint64_t{d.key_size} + d.value_size >= k_max_element_bytes)
        return fail(E2BIG, "map '{}': key and value of {} + {} bytes are not below {}", d.name, d.key_size,
                    d.value_size, k_max_element_bytes);
    return std::shared_ptr<ProcessMap>{new HashMap{d}};
}

std::uint32_t HashMap::bucket_of(const std::byte* key) const noexcept {
    std::uint64_t hash = seed_;
    const std::uint32_t size = definition().key_size;
    for (std::uint32_t at = 0; at < size; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, key + at, std::min<std::size_t>(8, size - at));
        hash = mix(hash ^ word) + seed_;
    }
    return static_cast<std::uint32_t>(hash & (buckets_.size() - 1));
}

std::byte* HashMap::key_at(Element element) noexcept {
    return reinterpret_cast<std::byte*>(elements_.data()) + (element - 1) * stride_;
}
std::byte* HashMap::value_at(Element element) noexcept { return key_at(element) + key_stride_; }

HashMap::Element HashMap::search(const std::byte* key) noexcept {
    Element element = buckets_[bucket_of(key)];
    while (element != k_none && std::memcmp(key_at(element), key, definition().key_size) != 0)
        element = link_of(element).next;
    return element;
}

HashMap::Element HashMap::take_free() noexcept {
    if (first_free_ != k_none) return std::exchange(first_free_, link_of(first_free_).next);
    return never_used_ <= links_.size() ? never_used_++ : k_none;
}

std::byte* HashMap::find(const std::byte* key) noexcept {
    const std::lock_guard lock{mutex_};
    const Element element = search(key);
    return element == k_none ? nullptr : value_at(element);
}

int HashMap::update_elem(const std::byte* key, const std::byte* value, std::uint64_t flags) noexcept {
    if (flags > static_cast<std::uint64_t>(UpdateMode::replace)) return -EINVAL;
    const std::lock_guard lock{mutex_};
    Element element = search(key);
    if (element != k_none && flags == static_cast<std::uint64_t>(UpdateMode::create)) return -EEXIST;
    if (element == k_none && flags == static_cast<std::uint64_t>(UpdateMode::replace)) return -ENOENT;
    const bool is_new = element == k_none;
    if (is_new) {
        element = take_free();
        if (element == k_none) return -E2BIG;
        std::memcpy(key_at(element), key, definition().key_size);
    }
    // The value may be read and written by programs at the same time.
    nofault::copy_to(reinterpret_cast<std::uintptr_t>(value_at(element)), value, definition().value_size);
    if (is_new) {
        const std::uint32_t bucket = bucket_of(key);
        link_of(element) = {.next = buckets_[bucket], .bucket = bucket + 1};
        buckets_[bucket] = element;
    }
    return 0;
}

int HashMap::delete_elem(const std::byte* key) noexcept {
    const std::lock_guard lock{mutex_};
    const Element element = search(key);
    if (element == k_none) return -ENOENT;
    Element* link = &buckets_[link_of(element).bucket - 1];
    while (*link != element) link = &link_of(*link).next;
    *link = link_of(element).next;
    link_of(element) = {.next = first_free_, .bucket = 0};
    first_free_ = element;
    return 0;
}

std::byte* HashMap::next(std::uint64_t& position, std::byte* key) noexcept {
    const std::lock_guard lock{mutex_};
    while (position + 1 < never_used_) {
        const auto element = static_cast<Element>(++position);
        if (link_of(element).bucket == 0) continue;
        std::memcpy(key, key_at(element), definition().key_size);
        return value_at(element);
    }
    return nullptr;
}

std::optional<std::uint64_t> HashMap::position_behind(const std::byte* key) noexcept {
    const std::lock_guard lock{mutex_};
    const Element element = search(key);
    if (element == k_none) return std::nullopt;
    return element;
}

}  // namespace harena::bpf
