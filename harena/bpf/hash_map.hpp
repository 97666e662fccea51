// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>

#include "harena/base/zeroed_array.hpp"
#include "harena/bpf/process_map.hpp"

namespace harena::bpf {

/// A map of type HASH: chained buckets over `max_entries` elements that are made once and used again.
///
/// A program's pointer to a value outlives the element's deletion: it then points to whatever the element holds next,
/// as in Linux, and never to freed memory.
class HashMap final : public ProcessMap {
public:
    [[nodiscard]] static Result<std::shared_ptr<ProcessMap>> create(const MapDefinition& definition);

    [[nodiscard]] std::byte* find(const std::byte* key) noexcept override;
    int update_elem(const std::byte* key, const std::byte* value, std::uint64_t flags) noexcept override;
    int delete_elem(const std::byte* key) noexcept override;
    [[nodiscard]] std::byte* next(std::uint64_t& position, std::byte* key) noexcept override;
    [[nodiscard]] std::optional<std::uint64_t> position_behind(const std::byte* key) noexcept override;

private:
    /// Number of an element, from 1, so that memory full of zeros is a map without entries.
    using Element = std::uint32_t;
    static constexpr Element k_none = 0;

    struct Link {
        Element next;          // in its bucket, or on the free list
        std::uint32_t bucket;  // which one, from 1; 0: not in one
    };

    explicit HashMap(const MapDefinition& definition);
    [[nodiscard]] std::uint32_t bucket_of(const std::byte* key) const noexcept;
    [[nodiscard]] std::byte* key_at(Element element) noexcept;
    [[nodiscard]] std::byte* value_at(Element element) noexcept;
    [[nodiscard]] Link& link_of(Element element) noexcept { return links_[element - 1]; }
    /// A free element, or k_none. With the lock.
    [[nodiscard]] Element take_free() noexcept;
    /// The element with this key in its bucket, or k_none. With the lock.
    [[nodiscard]] Element search(const std::byte* key) noexcept;

    std::uint64_t key_stride_;
    std::uint64_t stride_;          // key and value, each rounded up to 8
    std::uint64_t seed_;            // differs from map to map: an attacker who chooses keys cannot choose the bucket
    std::mutex mutex_;              // protects all below except the values; a leaf of the lock order
    ZeroedArray<Element> buckets_;  // the first of each; a power of two of them
    ZeroedArray<Link> links_;
    ZeroedArray<std::uint64_t> elements_;
    Element first_free_ = k_none;
    Element never_used_ = 1;  // this one and all above have not held an entry yet
};

}  // namespace harena::bpf
