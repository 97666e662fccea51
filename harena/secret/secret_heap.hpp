// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "harena/base/fork.hpp"
#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/secret/secret_cache.hpp"
#include "harena/secret/secret_memory.hpp"
#include "harena/secret/secret_space.hpp"
#include "harena/secret/slab_store.hpp"

namespace harena {

struct SecretHeapOptions {
    /// Bytes of addresses that are reserved: the bound on all secrets together, their guards included. A multiple of
    /// 4096, from 8192 to 2^40. Counts in RLIMIT_AS, and not as memory.
    std::uint64_t capacity = k_gib;
    /// How many of the process's mappings (65,530 by default) the heap may have.
    std::uint64_t max_vmas = 16384;
    /// Whether locked memory serves where memfd_secret is absent or refused. It is within reach of debuggers,
    /// /proc/self/mem, and the kernel: docs/secret.md.
    bool allow_mlock = false;
};

struct SecretAllocOptions {
    /// A power of two, up to 4096. Above 16, a secret takes pages of its own.
    std::size_t alignment = 16;
    /// Guard pages round this one secret: it takes a file, two mappings and at least a page.
    bool guarded = false;
};

struct SecretStatistics {
    SecretBackend backend;
    std::uint64_t live;          // secrets
    std::uint64_t live_bytes;    // as they were asked for
    std::uint64_t locked_bytes;  // of RLIMIT_MEMLOCK, without those of `SecretPages`
    std::uint64_t blocks;
    std::uint64_t vmas;
    std::uint64_t capacity;
};

/// Secrets of any size in memory that leaks cannot reach: not in dumps, swap, or children; with memfd_secret, not for
/// debuggers or the kernel's other bugs, either. docs/secret.md says what is prevented and what is not.
///
/// Thread-safe, and not for signal handlers. A child after fork cannot use it (EOWNERDEAD); the secrets' addresses are
/// inaccessible there.
class SecretHeap {
public:
    /// A heap without a block. Errors: ENOSYS, EPERM, EACCES (no memfd_secret, and mlock is not allowed), EINVAL (a
    /// bad capacity), ENOMEM (RLIMIT_AS, memory), EAGAIN (too many pthread keys, mlockall).
    [[nodiscard]] static Result<std::unique_ptr<SecretHeap>> create(const SecretHeapOptions& options = {});
    SecretHeap(const SecretHeap&) = delete;
    SecretHeap& operator=(const SecretHeap&) = delete;
    /// All memory goes, and what is live is wiped. No thread may use the heap any more.
    ~SecretHeap();

    /// `bytes` (1 or more) zero bytes. Errors: EINVAL (0 bytes, a bad alignment), EAGAIN (RLIMIT_MEMLOCK), ENOMEM
    /// (capacity, max_vmas, memory, mappings), EMFILE, ENFILE, EOWNERDEAD. Aborts if something was written to freed
    /// memory that is handed out again.
    [[nodiscard]] Result<void*> alloc(std::size_t bytes, const SecretAllocOptions& options = {});
    /// Frees what `alloc` returned; null does nothing. It is zero when this returns. Aborts, and says why, if `secret`
    /// is free already, or never was allocated, or bytes round it were overwritten. Errors: EOWNERDEAD only.
    Result<void> free(void* secret);
    /// How many bytes were asked for; 0 of what is no live secret of this heap, and in a child after fork.
    [[nodiscard]] std::size_t size_of(const void* secret) const noexcept;

    /// Gives memory without secrets back to the system: whole blocks, and so far fewer bytes than are free. Returns how
    /// many. Later secrets split the kernel's direct map anew.
    std::uint64_t trim() noexcept;

    /// All 0, but for backend and capacity, in a child after fork.
    [[nodiscard]] SecretStatistics statistics() const;

private:
    SecretHeap(const SecretHeapOptions& options, std::unique_ptr<SecretSpace> space);
    /// A free slot where the thread's cache has none.
    [[nodiscard]] Result<std::byte*> take_slot(ClassIndex index);
    [[nodiscard]] Result<std::byte*> take_slot_slowly(ClassIndex index);
    [[nodiscard]] Result<void*> alloc_run(std::size_t bytes, std::size_t alignment);
    void* make_live(std::byte* slot, std::size_t bytes, SecretCache* cache) noexcept;

    SecretHeapOptions options_;
    ForkGuard fork_guard_;
    std::unique_ptr<SecretSpace> space_;
    SlabStore store_;
    SecretCaches caches_;
};

}  // namespace harena
