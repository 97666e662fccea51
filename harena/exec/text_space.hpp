// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "harena/base/fork.hpp"
#include "harena/base/result.hpp"
#include "harena/base/smaps.hpp"
#include "harena/exec/text_allocator.hpp"
#include "harena/exec/text_file.hpp"
#include "harena/exec/text_patcher.hpp"
#include "harena/exec/text_place.hpp"
#include "harena/exec/text_readers.hpp"
#include "harena/exec/text_registry.hpp"
#include "harena/exec/text_symbols.hpp"
#include "harena/page/shrinker.hpp"
#include "harena/vm/vm_space.hpp"

namespace harena {

struct TextSpaceOptions {
    /// Addresses that are reserved, and so how much text there can be: rounded up to 2 MiB, at most 2 GiB.
    std::uint64_t max_bytes = 256 * k_mib;
    /// Within 2 GiB of the main program's own text: either can call the other with a 32-bit displacement.
    bool near_program = false;
    /// An area of this space, which has 2 GiB at most and outlives the text: text reaches all sealed data of it with a
    /// 32-bit displacement. Null: the process's space.
    VmSpace* space = nullptr;
    /// Blocks become 2 MiB pages where the machine can.
    bool huge_pages = true;
    /// How many bytes of blocks without any text are kept, to be used again without being made.
    std::uint64_t keep_free = 4 * k_mib;
    TextSymbolOptions symbols = {};
    /// Text must outlive the call only.
    std::string_view name = "text";
    std::source_location where = std::source_location::current();
};

struct TextOptions {
    /// A power of two, 16 to 2 MiB.
    std::uint64_t alignment = k_text_granule;
    /// For `TextSpaceOptions::symbols`; none: tools are not told.
    std::string_view name = {};
};

/// One write of a batch.
struct TextPoke {
    void* dest;
    std::span<const std::byte> bytes;
};

enum class TextPatchMode : std::uint8_t {
    /// By way of a trap. Always right.
    breakpoint,
    /// One store of the aligned 8-byte word that the bytes are in, where the processor's vendor and a self-test permit.
    plain,
};

struct TextStatistics {
    /// Pieces that callers have, or have retired, and the bytes that were asked for.
    std::uint64_t pieces = 0;
    std::uint64_t used_bytes = 0;
    /// In blocks that are mapped.
    std::uint64_t reserved_bytes = 0;
    /// Lost by rounding sizes up to 16 bytes.
    std::uint64_t internal_bytes = 0;
    /// In mapped blocks, in no piece.
    std::uint64_t free_bytes = 0;
    /// Of these, in blocks that have no piece at all.
    std::uint64_t empty_block_bytes = 0;
    /// The largest piece that fits without another block.
    std::uint64_t largest_free_bytes = 0;
    std::uint64_t blocks = 0;
    /// Blocks that became one 2 MiB page when they were made, and that did not, so far.
    std::uint64_t blocks_collapsed = 0;
    std::uint64_t blocks_not_collapsed = 0;
    /// So far: pieces written, write calls that took, live patches, fills of freed text.
    std::uint64_t pokes = 0;
    std::uint64_t poke_writes = 0;
    std::uint64_t patches = 0;
    std::uint64_t trap_fills = 0;
    /// Pieces that wait for threads to leave, and threads that are inside now.
    std::uint64_t retired = 0;
    std::uint64_t threads_inside = 0;
    /// Names that tools could not be told.
    std::uint64_t symbol_failures = 0;

    /// 1 - largest / all free bytes: 0 if all of it is one piece.
    [[nodiscard]] double external_fragmentation() const noexcept {
        return free_bytes == 0 ? 0 : 1 - static_cast<double>(largest_free_bytes) / static_cast<double>(free_bytes);
    }
};

/// A thread is inside of a space's text as long as this lives: what is retired meanwhile is not freed before it left.
/// Belongs to one thread; sections of a thread may nest. The space outlives it.
class [[nodiscard]] TextSection {
public:
    TextSection(TextSection&& other) noexcept : space_{std::exchange(other.space_, nullptr)}, slot_{other.slot_} {}
    TextSection& operator=(TextSection&&) = delete;
    TextSection(const TextSection&) = delete;
    TextSection& operator=(const TextSection&) = delete;
    ~TextSection();

private:
    friend class TextSpace;
    TextSection(class TextSpace& space, TextReaders::Slot& slot) noexcept : space_{&space}, slot_{&slot} {}
    class TextSpace* space_;
    TextReaders::Slot* slot_;
};

/// Executable memory: text in pieces of any size, in blocks of 2 MiB that are mapped for reading and execution only and
/// written through their file. All of it is within 2 GiB.
///
/// Text that is in no piece, or was not written since its piece was allocated, traps (SIGTRAP). Thread-safe, but not
/// for signal handlers, unless a function says so. In a child after fork, everything is EOWNERDEAD. docs/exec.md has
/// the argument for each promise. Kernel: bpf_prog_pack, execmem, text_poke.
class TextSpace final : public Shrinker {
public:
    /// Errors: EINVAL (sizes, see the options), EADDRNOTAVAIL (no room near the program), EFBIG (RLIMIT_FSIZE), ENOMEM
    /// (addresses, RLIMIT_AS), EMFILE, EEXIST (a perf map that is not ours).
    [[nodiscard]] static Result<std::unique_ptr<TextSpace>> create(const TextSpaceOptions& options = {});
    TextSpace(const TextSpace&) = delete;
    TextSpace& operator=(const TextSpace&) = delete;
    /// All text goes, retired text with it; callbacks are not called. No thread may run it, or use the space.
    ~TextSpace() override;

    // --- pieces ---

    /// A piece of `bytes`, full of traps. Errors: EINVAL (0 bytes, alignment), ENOMEM (`max_bytes`, memory, mappings,
    /// each named), EFBIG, EOWNERDEAD.
    [[nodiscard]] Result<void*> text_alloc(std::uint64_t bytes, const TextOptions& options = {});
    /// Pieces of `sizes` to `pieces`, as many, or none after an error: side by side where they are small, so that one
    /// write serves all. Errors as `text_alloc`; EINVAL: not as many of these as of those.
    Result<void> text_alloc_batch(std::span<const std::uint64_t> sizes, std::span<void*> pieces);
    /// Frees the piece that begins at `piece`, which traps when this returns. No thread may run it. Errors, after which
    /// it is as it was: EINVAL (no piece begins there; it was freed before; it is retired), EBUSY (a live patch is in
    /// progress), EFBIG (RLIMIT_FSIZE), those of pwrite, EOWNERDEAD.
    Result<void> text_free(const void* piece);
    /// The same for all or none; neighbours are filled together. After an error, EINVAL and EBUSY excepted, what
    /// they contain is undefined. EINVAL: one comes twice.
    Result<void> text_free_batch(std::span<const void* const> pieces);

    // --- writing ---

    /// Writes `bytes` at `dest`, which is inside of a piece. No thread may run what is written: `text_patch`. Errors:
    /// EINVAL (not in a piece, or it is retired), ERANGE (beyond its end), EBUSY (a live patch is in progress), EFBIG
    /// (RLIMIT_FSIZE), those of pwrite (part of it may be written), EOWNERDEAD.
    Result<void> text_poke(void* dest, std::span<const std::byte> bytes);
    /// The same for several, which do not overlap (EINVAL): neighbours are written together. All are checked before the
    /// first is written.
    Result<void> text_poke_batch(std::span<const TextPoke> pokes);
    /// Replaces one instruction, of 64 bytes at most, while threads may run it; or any bytes that nobody enters but at
    /// the first. They see the old or the new one, and when this returns by `breakpoint`, all see the new one.
    /// Errors: as `text_poke`, after which the text is as it was; EINVAL (0 or too many bytes; plain: not in one
    /// aligned word of 8), ENOTSUP (names what is missing), EPERM (patched, but not all may see it yet).
    Result<void> text_patch(void* dest, std::span<const std::byte> bytes,
                            TextPatchMode mode = TextPatchMode::breakpoint);
    /// Whether `TextPatchMode::plain` is permitted here. The first call in a process tries it out, for some
    /// milliseconds. Errors: ENOTSUP (says why not), and what kept it from trying.
    Result<void> plain_patches_permitted();
    /// When this returns, every thread has since executed a serialising instruction: none runs what it fetched before a
    /// plain patch. Errors: ENOTSUP, EPERM.
    static Result<void> sync_all_threads() { return TextPatcher::sync_all_threads(); }

    // --- text that may be running ---

    /// The calling thread is inside until what this returns goes. Does not fail again once it has not failed on a
    /// thread. Errors: ENOMEM, EOWNERDEAD.
    [[nodiscard]] Result<TextSection> enter();
    /// Takes a piece away, which no thread can find any more, and frees it when all threads that are inside have left;
    /// then `freed` is called, by the thread that freed it, without a lock. It must not throw. Errors, as `text_free`;
    /// ENOMEM.
    Result<void> text_retire(const void* piece, std::function<void()> freed = {});
    /// Frees what was retired and no thread is inside of any more. Happens by itself; but what could not be freed then
    /// (an error of pwrite, or of membarrier) waits for this. Returns how many pieces. Errors: those.
    Result<std::uint64_t> reclaim();

    // --- all of it ---

    /// Whether `address` is in this space, mapped or not. Lock-free, async-signal-safe.
    [[nodiscard]] bool contains(const void* address) const noexcept {
        return static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - base()) < bytes();
    }
    /// The piece that `address` is in; none if it is in none.
    [[nodiscard]] std::optional<std::span<const std::byte>> find_text(const void* address) const;
    [[nodiscard]] std::byte* base() const noexcept { return base_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] TextStatistics statistics() const;
    /// What of the text is on 2 MiB entries now. Errors: those of reading /proc/self/smaps.
    [[nodiscard]] Result<MappedBytes> mapped() const { return mapped_bytes(base(), bytes()); }

    /// Blocks without text, in pages.
    [[nodiscard]] PageCount count() const override;
    Result<PageCount> shrink(PageCount wanted) override;
    /// Gives all blocks without text back. Errors: ENOMEM (mappings).
    Result<void> trim();

private:
    friend class TextSection;
    class PageCounter;

    struct Retired {
        TextPiece piece;
        TextReaders::Epoch epoch;
        std::function<void()> freed;
    };
    static constexpr std::size_t k_staged = 64 * k_kib;

    TextSpace(TextPlace place, const TextSpaceOptions& options);
    [[nodiscard]] static Result<std::unique_ptr<TextSpace>> make(const TextSpaceOptions& options, std::uint64_t bytes);
    [[nodiscard]] Result<void> plain_patch(const TextPiece& piece, std::uint64_t offset,
                                           std::span<const std::byte> bytes);
    [[nodiscard]] Result<void> try_plain_patches();
    /// A thread left that something may have waited for.
    void left() noexcept;

    // With the lock held.
    [[nodiscard]] Result<std::uint64_t> take(std::uint64_t bytes, std::uint64_t alignment);
    [[nodiscard]] Result<void> take_small(std::span<const std::uint64_t> sizes, std::span<std::uint64_t> offsets);
    /// Adds the blocks that a piece of `bytes` needs, or a chunk for several together.
    [[nodiscard]] Result<void> grow_for(std::uint64_t bytes, std::uint64_t alignment, bool chunk);
    /// The piece that begins at `address`, which may be freed now.
    [[nodiscard]] Result<TextPiece> freeable(const void* address) const;
    /// The piece that [dest, dest + bytes) is inside of, which may be written to now.
    [[nodiscard]] Result<TextPiece> writable(const void* dest, std::uint64_t bytes) const;
    /// Fills pieces, which are in order, with traps; they are still allocated.
    [[nodiscard]] Result<void> trap(std::span<const TextPiece> pieces);
    void forget(const TextPiece& piece) noexcept;
    void mark_written(TextPiece piece) noexcept;
    /// These have been written, perhaps for the first time.
    void tell_symbols(std::span<const TextPiece> pieces) noexcept;
    /// Writes pokes in order of their addresses, with the pieces they are in.
    [[nodiscard]] Result<void> write_sorted(std::span<const TextPoke> pokes, std::span<const TextPiece> pieces);
    /// Gives blocks without text back until no more than `keep` bytes are kept; how many.
    [[nodiscard]] Result<std::uint64_t> give_back(std::uint64_t keep, std::uint64_t at_most);
    void give_back_surplus() noexcept;
    /// Takes what no thread is inside of any more off the list, after it was freed.
    [[nodiscard]] Result<std::vector<Retired>> free_retired();
    void update_pending() noexcept;

    [[nodiscard]] std::uint64_t offset_of(const void* address) const noexcept {
        return static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - base());
    }

    std::uint64_t keep_free_;
    ForkGuard fork_guard_;
    TextReaders readers_;
    std::atomic<std::uint64_t> mapped_pages_{0};
    std::unique_ptr<PageCounter> page_counter_;

    std::byte* base_;
    std::uint64_t bytes_;
    std::optional<TextPlace> place_;
    std::unique_ptr<TextFile> file_;
    std::unique_ptr<TextPatcher> patcher_;
    text_registry::Handle handle_ = nullptr;

    std::mutex patch_mutex_;    // one live patch at a time; before `mutex_`
    mutable std::mutex mutex_;  // protects all below, and each write to a piece
    mutable TextAllocator allocator_;
    TextSymbols symbols_;
    std::vector<Retired> retired_;         // by epoch
    std::size_t fenced_ = 0;               // of the first so many, there was a barrier on all threads since
    std::unique_ptr<std::byte[]> staged_;  // what is written together
    TextStatistics counters_;              // of what is counted so far
};

}  // namespace harena
