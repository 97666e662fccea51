// SPDX-License-Identifier: Apache-2.0
// Pieces: how they come and go. How they are written is in text_writing.cpp, how running ones are freed and changed in
// text_running.cpp.
#include "harena/exec/text_space.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <numeric>

namespace harena {

namespace {
constexpr std::uint64_t k_max_bytes = 2 * k_gib;
constexpr std::uint64_t k_max_alignment = k_text_block;
}  // namespace

/// What `vmallocinfo` says of a space's pages.
class TextSpace::PageCounter final : public VmPageCounter {
public:
    explicit PageCounter(const std::atomic<std::uint64_t>& pages) noexcept : pages_{pages} {}
    [[nodiscard]] std::uint64_t present_pages() const noexcept override {
        return pages_.load(std::memory_order_relaxed);
    }

private:
    const std::atomic<std::uint64_t>& pages_;
};

Result<std::unique_ptr<TextSpace>> TextSpace::create(const TextSpaceOptions& options) try {
    if (options.max_bytes == 0 || options.max_bytes > k_max_bytes)
        return fail(EINVAL, "a space of {} bytes of text: it takes 1 to {}, so that each call reaches all of it",
                    options.max_bytes, k_max_bytes);
    HARENA_CHECK_OK(text_registry::prepare());
    HARENA_CHECK_OK(TextReaders::prepare());
    return make(options, align_up(options.max_bytes, k_text_block));
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the description of {} bytes of text", options.max_bytes);
}

Result<std::unique_ptr<TextSpace>> TextSpace::make(const TextSpaceOptions& options, std::uint64_t bytes) {
    HARENA_TRY(TextPlace place, TextPlace::reserve({.bytes = bytes,
                                                    .near_program = options.near_program,
                                                    .space = options.space,
                                                    .name = options.name,
                                                    .where = options.where}));
    std::unique_ptr<TextSpace> space{new TextSpace{std::move(place), options}};
    HARENA_TRY(space->symbols_, TextSymbols::create(options.symbols));
    const auto no_fork = text_registry::block_forks();  // until children are kept from the file
    HARENA_TRY(space->file_, TextFile::create(space->base_, bytes, options.huge_pages));
    space->patcher_ = std::make_unique<TextPatcher>(*space->file_, space->base_, bytes);
    auto handle = text_registry::add({.begin = reinterpret_cast<std::uint64_t>(space->base_),
                                      .bytes = bytes,
                                      .file = space->file_.get(),
                                      .patcher = space->patcher_.get()});
    if (!handle) {
        space->file_.reset();
        return pass_on(handle.error());
    }
    space->handle_ = *handle;
    return space;
}

TextSpace::TextSpace(TextPlace place, const TextSpaceOptions& options)
    : keep_free_{options.keep_free},
      page_counter_{std::make_unique<PageCounter>(mapped_pages_)},
      base_{place.base()},
      bytes_{place.bytes()},
      place_{std::move(place)},
      allocator_{bytes_ / k_text_block},
      staged_{std::make_unique_for_overwrite<std::byte[]>(k_staged)} {
    place_->count_pages_with(page_counter_.get());
}

TextSpace::~TextSpace() {
    place_->count_pages_with(nullptr);
    // A child must neither have the text nor the file at any moment.
    const auto no_fork = text_registry::block_forks();
    if (handle_ != nullptr) text_registry::remove(handle_);
    file_.reset();
    place_.reset();
}

// --- allocation ---

Result<void> TextSpace::grow_for(std::uint64_t bytes, std::uint64_t alignment, bool chunk) {
    const auto blocks = chunk ? allocator_.blocks_for_chunk() : allocator_.blocks_for(bytes, alignment);
    if (!blocks)
        return fail(ENOMEM,
                    "no {} adjoining bytes of text are free in a space of {} (max_bytes), of which {} are used; the "
                    "largest free piece has {}",
                    bytes, bytes_, allocator_.counts().used_bytes, allocator_.largest_free());
    for (std::uint64_t block = blocks->begin; block < blocks->end; ++block) {
        HARENA_CHECK_OK(file_->grow(block));
        allocator_.add_block(block);
        mapped_pages_.fetch_add(k_text_block / k_page_size, std::memory_order_relaxed);
    }
    return {};
}

Result<std::uint64_t> TextSpace::take(std::uint64_t bytes, std::uint64_t alignment) {
    if (const auto offset = allocator_.allocate(bytes, alignment)) [[likely]]
        return *offset;
    HARENA_CHECK_OK(grow_for(bytes, alignment, false));
    if (const auto offset = allocator_.allocate(bytes, alignment)) return *offset;
    return fail(ENOMEM, "no place for {} bytes of text", bytes);
}

Result<void*> TextSpace::text_alloc(std::uint64_t bytes, const TextOptions& options) try {
    if (fork_guard_.owner_dead()) [[unlikely]]
        return pass_on(fork_guard_.check("the space of text").error());
    if (bytes == 0) return fail(EINVAL, "a piece of 0 bytes of text");
    if (bytes > bytes_) return fail(ENOMEM, "a piece of {} bytes in a space of {} (max_bytes)", bytes, bytes_);
    // Not std::has_single_bit: counting bits is a call where the processor may be an old one.
    if ((options.alignment & (options.alignment - 1)) != 0 || options.alignment < k_text_granule ||
        options.alignment > k_max_alignment)
        return fail(EINVAL, "text's alignment is a power of two from {} to {}, not {}", k_text_granule, k_max_alignment,
                    options.alignment);
    const std::lock_guard lock{mutex_};
    auto offset = allocator_.allocate(bytes, options.alignment);
    if (!offset) [[unlikely]] {
        HARENA_TRY(offset, take(bytes, options.alignment));
    }
    std::byte* const piece = base_ + *offset;
    if (!options.name.empty()) symbols_.add(reinterpret_cast<std::uint64_t>(piece), bytes, options.name);
    return static_cast<void*>(piece);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to keep account of a piece of {} bytes of text", bytes);
}

Result<void> TextSpace::take_small(std::span<const std::uint64_t> sizes, std::span<std::uint64_t> offsets) {
    if (allocator_.allocate_adjoining(sizes, offsets)) return {};
    HARENA_CHECK_OK(grow_for(std::reduce(sizes.begin(), sizes.end()), k_text_granule, true));
    if (allocator_.allocate_adjoining(sizes, offsets)) return {};
    return fail(ENOMEM, "no place for {} pieces of text", sizes.size());
}

Result<void> TextSpace::text_alloc_batch(std::span<const std::uint64_t> sizes, std::span<void*> pieces) try {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    if (sizes.size() != pieces.size())
        return fail(EINVAL, "{} sizes for {} pieces of text", sizes.size(), pieces.size());
    for (const std::uint64_t bytes : sizes) {
        if (bytes == 0) return fail(EINVAL, "a piece of 0 bytes of text");
        if (bytes > bytes_) return fail(ENOMEM, "a piece of {} bytes in a space of {} (max_bytes)", bytes, bytes_);
    }
    std::vector<std::uint64_t> offsets(sizes.size());
    const std::lock_guard lock{mutex_};
    std::size_t done = 0;
    const auto take_all = [&]() -> Result<void> {
        while (done < sizes.size()) {
            // As many small ones as a chunk has room for.
            std::size_t end = done;
            for (std::uint64_t granules = 0; end < sizes.size() && TextAllocator::is_small(sizes[end]); ++end) {
                granules += text_granules(sizes[end]);
                if (granules > TextChunk::k_granules) break;
            }
            if (end > done) {
                HARENA_CHECK_OK(
                    take_small(sizes.subspan(done, end - done), std::span{offsets}.subspan(done, end - done)));
                done = end;
            } else {
                HARENA_TRY(offsets[done], take(sizes[done], k_text_granule));
                ++done;
            }
        }
        return {};
    };
    Result<void> taken;
    try {
        taken = take_all();
    } catch (const std::bad_alloc&) {
        taken = fail(ENOMEM, "no memory to keep account of {} pieces of text", sizes.size());
    }
    if (!taken) {
        for (std::size_t i = 0; i < done; ++i) allocator_.free(*allocator_.at(offsets[i]));
        give_back_surplus();
        return taken;
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) pieces[i] = base_ + offsets[i];
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for a batch of {} pieces of text", sizes.size());
}

// --- freeing ---

Result<TextPiece> TextSpace::freeable(const void* address) const {
    const auto piece = contains(address) ? allocator_.at(offset_of(address)) : std::nullopt;
    if (!piece) return fail(EINVAL, "no piece of text begins at {}, or it was freed before", fmt::ptr(address));
    if (piece->flags.retired) return fail(EINVAL, "the text at {} was retired before", fmt::ptr(address));
    if (piece->flags.patching) return fail(EBUSY, "the text at {} is being patched", fmt::ptr(address));
    return *piece;
}

Result<void> TextSpace::trap(std::span<const TextPiece> pieces) {
    // What lies between two pieces may be filled with them, if nobody has it: it is traps.
    constexpr std::uint64_t k_gap = k_page_size;
    for (std::size_t i = 0; i < pieces.size();) {
        if (!pieces[i].flags.written) {
            ++i;
            continue;
        }
        const std::uint64_t begin = pieces[i].offset;
        std::uint64_t end = pieces[i].room_end();
        while (++i < pieces.size()) {
            const std::uint64_t next = pieces[i].offset;
            if (next != end && (next - end > k_gap || !allocator_.is_free_in_chunk(end, next))) break;
            end = pieces[i].room_end();
        }
        ++counters_.trap_fills;
        HARENA_CHECK_OK(file_->fill_with_traps(begin, end - begin));
    }
    return {};
}

void TextSpace::forget(const TextPiece& piece) noexcept {
    if (piece.flags.patched) patcher_->forget(piece.offset, piece.bytes);
    symbols_.remove(reinterpret_cast<std::uint64_t>(base_ + piece.offset));
    allocator_.free(piece);
}

Result<void> TextSpace::text_free(const void* piece) {
    if (fork_guard_.owner_dead()) [[unlikely]]
        return fork_guard_.check("the space of text");
    const std::lock_guard lock{mutex_};
    // One that was never written is traps already.
    if (contains(piece) && allocator_.free_untouched(offset_of(piece))) {
        symbols_.remove(reinterpret_cast<std::uint64_t>(piece));
    } else {
        HARENA_TRY(const TextPiece found, freeable(piece));
        if (found.flags.written) HARENA_CHECK_OK(trap({&found, 1}));
        forget(found);
    }
    if (allocator_.empty_blocks() * k_text_block > keep_free_) [[unlikely]]
        give_back_surplus();
    return {};
}

Result<void> TextSpace::text_free_batch(std::span<const void* const> pieces) try {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    std::vector<TextPiece> found;
    found.reserve(pieces.size());
    const std::lock_guard lock{mutex_};
    for (const void* const piece : pieces) {
        HARENA_TRY(const TextPiece one, freeable(piece));
        found.push_back(one);
    }
    if (!std::ranges::is_sorted(found, {}, &TextPiece::offset)) std::ranges::sort(found, {}, &TextPiece::offset);
    if (const auto twice = std::ranges::adjacent_find(found, {}, &TextPiece::offset); twice != found.end())
        return fail(EINVAL, "the piece of text at {} comes twice", fmt::ptr(base_ + twice->offset));
    HARENA_CHECK_OK(trap(found));
    for (const TextPiece& piece : found) forget(piece);
    give_back_surplus();
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to free {} pieces of text at once", pieces.size());
}

// --- blocks ---

Result<std::uint64_t> TextSpace::give_back(std::uint64_t keep, std::uint64_t at_most) {
    std::uint64_t given = 0;
    std::uint64_t below = bytes_ / k_text_block;
    while (given < at_most && allocator_.empty_blocks() * k_text_block > keep) {
        const auto block = allocator_.empty_block(below);
        if (!block) break;
        below = *block;
        try {
            allocator_.remove_block(*block);
        } catch (const std::bad_alloc&) {
            return fail(ENOMEM, "no memory to give a block of text back");
        }
        if (auto gone = file_->give_back(*block); !gone) {
            allocator_.add_block(*block);
            if (given == 0) return pass_on(gone.error());
            break;
        }
        mapped_pages_.fetch_sub(k_text_block / k_page_size, std::memory_order_relaxed);
        ++given;
    }
    return given;
}

void TextSpace::give_back_surplus() noexcept {
    // What cannot be given back now is kept.
    if (allocator_.empty_blocks() * k_text_block > keep_free_) (void)give_back(keep_free_, ~std::uint64_t{0});
}

PageCount TextSpace::count() const {
    if (fork_guard_.owner_dead()) return PageCount{0};
    const std::lock_guard lock{mutex_};
    return PageCount{allocator_.empty_blocks() * (k_text_block / k_page_size)};
}

Result<PageCount> TextSpace::shrink(PageCount wanted) {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    constexpr std::uint64_t k_block_pages = k_text_block / k_page_size;
    const std::lock_guard lock{mutex_};
    allocator_.release_chunk();
    HARENA_TRY(const std::uint64_t blocks, give_back(0, (wanted.value() + k_block_pages - 1) / k_block_pages));
    return PageCount{blocks * k_block_pages};
}

Result<void> TextSpace::trim() {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    const std::lock_guard lock{mutex_};
    allocator_.release_chunk();
    HARENA_CHECK_OK(give_back(0, ~std::uint64_t{0}));
    return {};
}

// --- looking ---

std::optional<std::span<const std::byte>> TextSpace::find_text(const void* address) const {
    if (fork_guard_.owner_dead() || !contains(address)) return std::nullopt;
    const std::lock_guard lock{mutex_};
    const auto piece = allocator_.containing(offset_of(address));
    if (!piece) return std::nullopt;
    return std::span<const std::byte>{base_ + piece->offset, piece->bytes};
}

TextStatistics TextSpace::statistics() const {
    if (fork_guard_.owner_dead()) return {};
    const std::lock_guard lock{mutex_};
    TextStatistics out = counters_;
    const TextAllocator::Counts counts = allocator_.counts();
    out.pieces = counts.pieces;
    out.used_bytes = counts.used_bytes;
    out.blocks = counts.mapped_blocks;
    out.reserved_bytes = counts.mapped_blocks * k_text_block;
    out.internal_bytes = counts.room_bytes - counts.used_bytes;
    out.free_bytes = out.reserved_bytes - counts.room_bytes;
    out.empty_block_bytes = counts.empty_blocks * k_text_block;
    out.largest_free_bytes = allocator_.largest_free();
    out.blocks_collapsed = file_->collapsed();
    out.blocks_not_collapsed = file_->not_collapsed();
    out.retired = retired_.size();
    out.threads_inside = readers_.inside();
    out.symbol_failures = symbols_.failures();
    return out;
}

}  // namespace harena
