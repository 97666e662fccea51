// SPDX-License-Identifier: Apache-2.0
// Writing to pieces that no thread runs.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "harena/exec/text_space.hpp"
#include "harena/exec/text_x86_64.hpp"

namespace harena {

Result<TextPiece> TextSpace::writable(const void* dest, std::uint64_t bytes) const {
    const auto piece = contains(dest) ? allocator_.containing(offset_of(dest)) : std::nullopt;
    if (!piece) return fail(EINVAL, "{} is in no piece of text", fmt::ptr(dest));
    if (piece->flags.retired) return fail(EINVAL, "the text at {} was retired", fmt::ptr(dest));
    const std::uint64_t offset = offset_of(dest);
    if (offset > piece->end() || piece->end() - offset < bytes)
        return fail(ERANGE, "{} bytes at {} are beyond the end of a piece of {} bytes that begins {} bytes before",
                    bytes, fmt::ptr(dest), piece->bytes, offset - piece->offset);
    if (piece->flags.patching) return fail(EBUSY, "the text at {} is being patched", fmt::ptr(dest));
    return *piece;
}

void TextSpace::mark_written(TextPiece piece) noexcept {
    if (piece.flags.written) return;
    piece.flags.written = true;
    allocator_.set_flags(piece, piece.flags);
}

void TextSpace::tell_symbols(std::span<const TextPiece> pieces) noexcept {
    for (const TextPiece& piece : pieces)
        symbols_.written(reinterpret_cast<std::uint64_t>(base_ + piece.offset), piece.bytes);
}

Result<void> TextSpace::text_poke(void* dest, std::span<const std::byte> bytes) {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    const std::lock_guard lock{mutex_};
    HARENA_TRY(const TextPiece piece, writable(dest, bytes.size()));
    if (bytes.empty()) return {};
    mark_written(piece);  // before: part of it may be written after an error
    ++counters_.pokes;
    ++counters_.poke_writes;
    HARENA_CHECK_OK(file_->write(offset_of(dest), bytes));
    tell_symbols({&piece, 1});
    return {};
}

Result<void> TextSpace::text_poke_batch(std::span<const TextPoke> pokes) try {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    std::vector<TextPoke> sorted{pokes.begin(), pokes.end()};
    std::erase_if(sorted, [](const TextPoke& poke) { return poke.bytes.empty(); });
    const auto address = [](const TextPoke& poke) { return reinterpret_cast<std::uintptr_t>(poke.dest); };
    if (!std::ranges::is_sorted(sorted, {}, address)) std::ranges::sort(sorted, {}, address);
    std::vector<TextPiece> pieces;
    pieces.reserve(sorted.size());
    const std::lock_guard lock{mutex_};
    for (std::size_t i = 0; i < sorted.size(); ++i) {
        const TextPoke& poke = sorted[i];
        HARENA_TRY(const TextPiece piece, writable(poke.dest, poke.bytes.size()));
        if (i > 0 && address(sorted[i - 1]) + sorted[i - 1].bytes.size() > address(poke))
            return fail(EINVAL, "two pokes of a batch overlap at {}", fmt::ptr(poke.dest));
        pieces.push_back(piece);
    }
    for (const TextPiece& piece : pieces) mark_written(piece);
    counters_.pokes += sorted.size();
    HARENA_CHECK_OK(write_sorted(sorted, pieces));
    tell_symbols(pieces);
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for a batch of {} pokes", pokes.size());
}

Result<void> TextSpace::write_sorted(std::span<const TextPoke> pokes, std::span<const TextPiece> pieces) {
    for (std::size_t i = 0; i < pokes.size();) {
        const std::uint64_t begin = offset_of(pokes[i].dest);
        std::uint64_t end = begin + pokes[i].bytes.size();
        std::size_t next = i + 1;
        // What lies between may be written with them if it is in no piece: padding, and free text. It is traps, and
        // nobody else writes there.
        const auto joins = [&] {
            const std::uint64_t to = offset_of(pokes[next].dest);
            if (to + pokes[next].bytes.size() - begin > k_staged) return false;
            if (to == end) return true;
            const TextPiece& last = pieces[next - 1];
            if (end != last.end() || to != pieces[next].offset) return false;
            return to == last.room_end() ||
                   (to - end < k_page_size && allocator_.is_free_in_chunk(last.room_end(), to));
        };
        while (next < pokes.size() && joins()) {
            if (next == i + 1) std::memcpy(staged_.get(), pokes[i].bytes.data(), pokes[i].bytes.size());
            const std::uint64_t to = offset_of(pokes[next].dest);
            std::memset(staged_.get() + (end - begin), static_cast<int>(text_machine::k_trap), to - end);
            std::memcpy(staged_.get() + (to - begin), pokes[next].bytes.data(), pokes[next].bytes.size());
            end = to + pokes[next].bytes.size();
            ++next;
        }
        ++counters_.poke_writes;
        if (next == i + 1)
            HARENA_CHECK_OK(file_->write(begin, pokes[i].bytes));
        else
            HARENA_CHECK_OK(file_->write(begin, {staged_.get(), end - begin}));
        i = next;
    }
    return {};
}

}  // namespace harena
