// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "harena/base/result.hpp"
#include "harena/base/zeroed_array.hpp"
#include "harena/secret/secret_blocks.hpp"
#include "harena/secret/secret_space.hpp"
#include "harena/secret/slab.hpp"

namespace harena {

/// Pages of a secret that is larger than a slot, or has guards, or an alignment, of its own.
struct PageRun;

/// All slabs and runs of a heap, and which of them a page is of. Thread-safe.
///
/// What needs more memory of the system is apart (`grow`, `alloc_span`): those wait for the space's lock, and no caller
/// may have a lock then that a thread's end takes.
class SlabStore {
public:
    /// Throws std::bad_alloc.
    explicit SlabStore(SecretSpace& space);
    SlabStore(const SlabStore&) = delete;
    SlabStore& operator=(const SlabStore&) = delete;
    /// The space unmaps all blocks and spans.
    ~SlabStore();

    /// Takes up to `out.size()` free slots of a class; none if that needs a new block. Errors: ENOMEM (records).
    [[nodiscard]] Result<std::size_t> take_slots(ClassIndex index, std::span<std::byte*> out);
    /// Takes free slots back, of any classes.
    void give_slots(std::span<std::byte* const> slots) noexcept;

    /// A secret on pages of blocks; null if that needs a new block. Errors: ENOMEM (records).
    [[nodiscard]] Result<void*> alloc_run(std::size_t bytes, std::size_t alignment);
    /// How many pages that takes. `bytes` is at most 2^40.
    [[nodiscard]] static std::uint64_t run_pages(std::size_t bytes, std::size_t alignment) noexcept;
    /// A secret on pages of its own, with a guard at each end; it ends at the upper one but for its alignment. Errors:
    /// those of `SecretSpace::map`.
    [[nodiscard]] Result<void*> alloc_span(std::size_t bytes, std::size_t alignment);

    /// Makes a block that has `pages` adjoining pages, unless one has them by now. Errors: those of `SecretSpace::map`.
    Result<void> grow(std::uint64_t pages);
    /// Gives the pages of slabs without a secret back to their blocks.
    void release_free_slabs() noexcept;
    /// Gives blocks without a secret back to the system. Returns how many bytes.
    std::uint64_t release_free_blocks() noexcept;

    /// The slab that `at` is in; null if there is none, or `at` is not of the space. Without a lock: right for an
    /// address in a live secret.
    [[nodiscard]] Slab* slab_of(const void* at) const noexcept {
        const std::uintptr_t entry = entry_of(at);
        return (entry & k_marks) == 0 ? reinterpret_cast<Slab*>(entry) : nullptr;
    }
    /// Frees a secret that is in no slab; aborts if it is none, or something was written round it.
    void free_run(std::byte* at) noexcept;
    /// Of a secret that is in no slab; 0 of what is none.
    [[nodiscard]] std::size_t run_size_of(const std::byte* at) const noexcept;

    /// Zeroes all memory, whatever is in it. Nothing else may be called after it.
    void wipe_all() noexcept;

    struct Usage {
        std::uint64_t blocks;
        std::uint64_t runs;
        std::uint64_t run_bytes;
    };
    [[nodiscard]] Usage usage() const;

private:
    // A page's entry is 0 (nothing was ever there), `k_freed`, a slab's address, or a run's with `k_run`.
    static constexpr std::uintptr_t k_freed = 1;
    static constexpr std::uintptr_t k_run = 2;
    static constexpr std::uintptr_t k_marks = 3;

    [[nodiscard]] std::uintptr_t entry_of(const void* at) const noexcept {
        const std::uint64_t page = page_index(at);
        if (page >= entries_.size()) return 0;
        return std::atomic_ref{entries_[page]}.load(std::memory_order_acquire);
    }
    [[nodiscard]] std::uint64_t page_index(const void* at) const noexcept {
        return static_cast<std::uint64_t>(static_cast<const std::byte*>(at) - base_) / k_page_size;
    }
    void set_entries(const std::byte* first, std::uint64_t pages, std::uintptr_t entry) noexcept;

    /// A new slab of the class, in its list; null if no block has a free page.
    [[nodiscard]] Result<Slab*> begin_slab(ClassIndex index);
    void end_slab(Slab& slab) noexcept;
    [[nodiscard]] Slab* unused_slab();
    void link(Slab& slab) noexcept;
    void unlink(Slab& slab) noexcept;

    /// Makes the records of a secret at `at` in the pages of `run`, which are mapped.
    void* begin_run(std::unique_ptr<PageRun> run, std::byte* at, std::size_t bytes) noexcept;
    template <typename Visit>
    void each_run(Visit&& visit) noexcept;
    [[nodiscard]] PageRun* run_of(const std::byte* at) const noexcept;

    SecretSpace& space_;
    std::byte* const base_;
    ZeroedArray<std::uintptr_t> entries_;  // read without a lock; changed under `mutex_`

    std::mutex grow_mutex_;                                   // one block at a time; before `mutex_` and the space's
    std::uint64_t next_block_ = SecretBlocks::k_first_pages;  // under `grow_mutex_`

    mutable std::mutex mutex_;  // protects all below
    SecretBlocks blocks_;
    std::array<Slab*, k_classes> lists_{};  // slabs of each class in which slots are
    std::vector<std::unique_ptr<Slab[]>> slabs_;
    Slab* unused_slabs_ = nullptr;
    std::uint64_t runs_ = 0;
    std::uint64_t run_bytes_ = 0;
};

}  // namespace harena
