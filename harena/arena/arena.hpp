// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <span>
#include <string>
#include <vector>

#include "harena/base/page_math.hpp"
#include "harena/base/result.hpp"
#include "harena/base/types.hpp"
#include "harena/page/page_account.hpp"

struct iovec;   // <sys/uio.h>
struct msghdr;  // <sys/socket.h>

namespace harena {

class ArenaHeap;

/// Whether pages of an arena share page-table entries of 2 MiB.
enum class HugePages : std::uint8_t {
    never,      ///< only where `promote` asks for it
    automatic,  ///< where free blocks of 2 MiB are allocated whole, and for threads that allocate page after page
    all,        ///< memory comes and goes in blocks of 2 MiB, on the machine's reserved huge pages if it has enough
};

/// Who pays for pages.
enum class Charge : std::uint8_t {
    creator,  ///< the account of the arena
    caller,   ///< the account of the program that allocates, or what the host's call names
};

/// How this process uses an arena; others may use it otherwise. What each option costs and gives: docs/arena.md.
struct ArenaTuning {
    /// Freed pages that keep their memory, at most, to be handed out again without a system call. 0 for exactness: a
    /// use after free is then a fault, or a new page.
    PageCount recycle{2048};
    /// Pages that a touch of the host makes used at once, if they are absent: a power of two, 1 to 512.
    PageCount fault_granule{1};
    HugePages huge_pages = HugePages::automatic;
    /// The same calls give the same addresses: no thread keeps pages of its own.
    bool deterministic = false;
    /// Every touch and every free shows at once: `recycle` 0, `fault_granule` 1 and `HugePages::never`, whatever else
    /// is asked for. An error where userfaultfd is refused.
    bool exact_presence = false;
    /// Pays for this process's pages, those that the host touches included; null for nobody.
    std::shared_ptr<PageAccount> account{};
    Charge charge = Charge::creator;
};

struct ArenaOptions {
    /// For messages and /proc/self/maps.
    std::string name = "arena";
    /// 1 to 1,048,576 (4 GiB).
    PageCount pages{};
    /// Address of the first page, the same for host and program: a multiple of 4096, or 0 to let the library choose.
    /// The whole arena lies in one 4 GiB-aligned window.
    UserAddress user_vm_start{};
    /// The host's touch of an absent page is SIGSEGV instead of a new page (kernel: BPF_F_SEGV_ON_FAULT).
    bool segv_on_fault = false;
    /// Pointers that a program stores keep 32 bits (kernel: BPF_F_NO_USER_CONV).
    bool no_user_conv = false;
    /// The host's touch of a reserved page is SIGSEGV, too.
    bool strict_reserve = false;
    /// The page whose pointer has 32 zero bits, if the arena has it, is never used: no data is where NULL points to.
    bool null_guard = false;
    ArenaTuning tuning{};
    /// Who asks, for `vmallocinfo`.
    std::source_location where = std::source_location::current();
};

struct AttachOptions {
    ArenaTuning tuning{};
    std::source_location where = std::source_location::current();
};

struct AllocOptions {
    /// Where in the arena; null for anywhere.
    void* address = nullptr;
    /// NUMA node, or -1 for any. Only checked for being online.
    int node = -1;
    /// Pays, if the arena charges callers; null for nobody.
    std::shared_ptr<PageAccount> account{};
};

/// Counted by a look at every page: exact when no other thread is at work.
struct ArenaStatistics {
    PageCount pages;                   ///< capacity
    PageCount used;                    ///< allocated by a program or the host, or touched by the host
    PageCount reserved;                ///< kept out of allocation
    PageCount recycled;                ///< free, and with memory
    PageCount on_2mib;                 ///< of all those with memory, on page-table entries of 2 MiB in this process
    std::uint64_t host_faults = 0;     ///< touches by this process's host that made pages
    std::uint64_t program_faults = 0;  ///< accesses of this process's programs to absent pages
    std::uint64_t recovered = 0;       ///< pages on which another process died, put in order by this one
    /// Pages whose touches are no longer seen, since the kernel would not watch them again: no memory of its own.
    std::uint64_t unwatched = 0;
    std::uint32_t processes = 1;  ///< that have the arena now
    bool watched = true;          ///< touches are seen by userfaultfd; else when pages are allocated or looked at
    bool hugetlb = false;         ///< on the machine's reserved 2 MiB pages
};

/// Adjoining pages of an arena that somebody has.
struct ArenaRange {
    std::byte* address;
    PageCount pages;
    bool reserved;  ///< kept out of allocation; else used
    /// The process that allocated them, 0 if it is gone; and whether it is this one.
    std::uint32_t process;
    bool mine;
    /// Name of the account of this process that pays for them; empty if there is none.
    std::string account;
};

/// Sparse memory of up to 4 GiB that BPF programs and the host use with the same pointers (Linux: bpf_arena): of this
/// process
/// (`ProcessArena`) or of the kernel, for the host the same.
///
/// The host reads and writes `[data(), data() + size)` with plain pointers; a touch of an absent page gives a zeroed
/// page. System calls do not: `populate` what they are given first. Exactness of presence, fork and signals:
/// docs/arena.md. All functions are thread-safe; in a child after fork all that can fail return EOWNERDEAD.
class Arena {
public:
    static constexpr PageCount k_max_pages{4 * k_gib / k_page_size};

    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    /// Gives the memory and the address space back. No thread may touch the arena any more.
    virtual ~Arena();

    [[nodiscard]] const std::string& name() const noexcept { return options_.name; }
    /// The first byte; its value as a number is `user_vm_start()`.
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    /// In bytes.
    [[nodiscard]] std::uint64_t size() const noexcept { return harena::bytes_of(options_.pages); }
    [[nodiscard]] PageCount pages() const noexcept { return options_.pages; }
    [[nodiscard]] UserAddress user_vm_start() const noexcept {
        return UserAddress{reinterpret_cast<std::uint64_t>(data_)};
    }
    [[nodiscard]] bool segv_on_fault() const noexcept { return options_.segv_on_fault; }
    [[nodiscard]] bool no_user_conv() const noexcept { return options_.no_user_conv; }
    [[nodiscard]] bool contains(const void* address) const noexcept {
        return reinterpret_cast<std::uint64_t>(address) - user_vm_start().value() < size();
    }
    /// Whether all of [address, address + bytes) is in the arena.
    [[nodiscard]] bool contains(const void* address, std::uint64_t bytes) const noexcept {
        const std::uint64_t offset = reinterpret_cast<std::uint64_t>(address) - user_vm_start().value();
        return bytes <= size() && offset <= size() - bytes;
    }

    /// Allocates `count` adjoining zeroed pages and returns the first one's address: where asked, or the start of the
    /// smallest sufficient free range. Errors: EINVAL (0 pages, unaligned address, node not online), E2BIG (more than
    /// the arena has), ERANGE (outside the arena), EBUSY (a page of the range is in use or reserved), ENOMEM.
    [[nodiscard]] virtual Result<void*> alloc_pages(PageCount count, const AllocOptions& options = {}) = 0;

    /// Frees pages, allocated or reserved; they read as zero when they are allocated again. All or nothing.
    /// Errors: EINVAL (null, unaligned, 0 pages, a page that is free already: named), ERANGE (outside the arena).
    virtual Result<void> free_pages(void* address, PageCount count) = 0;

    /// Keeps free pages out of allocation until they are freed.
    /// Errors: EINVAL (unaligned, 0 pages), ERANGE (outside the arena), EBUSY (a page is in use or reserved).
    virtual Result<void> reserve_pages(void* address, PageCount count) = 0;

    /// Makes every page that holds a byte of [address, address + bytes) present, as a touch would: for system calls,
    /// and for threads that block SIGBUS. Errors: ERANGE (outside the arena), EFAULT (`segv_on_fault`), ENOMEM,
    /// EIO (another process holds such a page and does not go on).
    virtual Result<void> populate(const void* address, std::uint64_t bytes) = 0;

    /// Puts blocks of 2 MiB on one page-table entry each; their free pages become used. `address` and `count` are in
    /// whole blocks. All or nothing. Errors: EINVAL (not whole blocks, 0 pages), ERANGE (outside the arena), EBUSY (a
    /// page is reserved, or the kernel cannot at this moment), ENOMEM (an account's limit, named, or memory), ENOTSUP
    /// (the kernel's arenas).
    virtual Result<void> promote(void* address, PageCount count) = 0;

    /// Who has which pages, by address. Each page is looked at once: exact when no other thread is at work. Errors:
    /// ENOMEM, ENOTSUP (the kernel's arenas).
    [[nodiscard]] virtual Result<std::vector<ArenaRange>> snapshot() = 0;
    /// System calls on memory of the arena, which is populated first: given absent pages they would fail with EFAULT or
    /// a short count, and a datagram would be lost. Each makes its call once and returns how many bytes were moved, a
    /// short count as it is; one call moves at most 2,147,479,552. The pages of the buffer are used afterwards, however
    /// few bytes were moved. An empty buffer may lie anywhere.
    ///
    /// Errors: those of `populate` (ERANGE: not all of the buffer is in the arena) and of the system call, EINTR and
    /// EAGAIN too. EFAULT if another thread frees the pages meanwhile.
    [[nodiscard]] Result<std::size_t> read(int fd, void* into, std::size_t bytes);
    [[nodiscard]] Result<std::size_t> write(int fd, const void* from, std::size_t bytes);
    [[nodiscard]] Result<std::size_t> pread(int fd, void* into, std::size_t bytes, std::uint64_t offset);
    [[nodiscard]] Result<std::size_t> pwrite(int fd, const void* from, std::size_t bytes, std::uint64_t offset);
    [[nodiscard]] Result<std::size_t> recv(int fd, void* into, std::size_t bytes, int flags = 0);
    [[nodiscard]] Result<std::size_t> send(int fd, const void* from, std::size_t bytes, int flags = 0);

    /// The same with buffers in several parts, each wholly in the arena or wholly outside: a header of the host's and a
    /// body in the arena, say. Of a message, the address and the control data may lie in the arena too, but the list of
    /// parts and the message itself may not (EINVAL): what is there can change between a look and the call.
    [[nodiscard]] Result<std::size_t> readv(int fd, std::span<const iovec> into);
    [[nodiscard]] Result<std::size_t> writev(int fd, std::span<const iovec> from);
    [[nodiscard]] Result<std::size_t> recvmsg(int fd, msghdr& message, int flags = 0);
    [[nodiscard]] Result<std::size_t> sendmsg(int fd, const msghdr& message, int flags = 0);

    /// The arena's own heap of objects, which is made when it is first asked for and goes with this object, its objects
    /// with it. Errors: ENOMEM, EOWNERDEAD.
    [[nodiscard]] Result<ArenaHeap*> heap();
    /// Objects of that heap: `ArenaHeap::make` and `destroy`. For these, include arena_heap.hpp.
    template <typename T, typename... Args>
    [[nodiscard]] Result<T*> make(Args&&... args);
    template <typename T>
    Result<void> destroy(T* object);

    /// EOWNERDEAD in a child after fork.
    [[nodiscard]] virtual Result<ArenaStatistics> statistics() = 0;

protected:
    explicit Arena(const ArenaOptions& options) : options_{options} {}
    /// Whoever derives calls this first of all in its destructor: the heap's pages go back to an arena that works.
    void end_heap() noexcept;

    /// Where it was mapped: once, before anybody else sees the object.
    void set_data(std::byte* data) noexcept { data_ = data; }
    /// The pages [address, address + count), or EINVAL (0 pages, unaligned) or ERANGE (not inside).
    [[nodiscard]] Result<PageRange> checked_range(const void* address, PageCount count) const;
    [[nodiscard]] void* address_of(PageIndex page) const noexcept { return data_ + byte_offset(page); }
    [[nodiscard]] const ArenaOptions& options() const noexcept { return options_; }

private:
    /// Whether a byte of [address, address + bytes) is in the arena.
    [[nodiscard]] bool overlaps(const void* address, std::uint64_t bytes) const noexcept;
    /// Populates what one call can move of it, and says how many bytes that are.
    Result<std::size_t> populate_buffer(const void* buffer, std::size_t bytes);
    Result<void> populate_parts(std::span<const iovec> parts);
    Result<void> populate_message(const msghdr& message);

    ArenaOptions options_;
    std::byte* data_ = nullptr;
    std::atomic<ArenaHeap*> heap_{nullptr};
};

}  // namespace harena
