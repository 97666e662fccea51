// SPDX-License-Identifier: Apache-2.0
// Text that threads may be running: sections, retiring, live patches.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <thread>

#include "harena/base/background_thread.hpp"
#include "harena/exec/text_space.hpp"
#include "harena/exec/text_x86_64.hpp"

namespace harena {

// --- sections and retiring ---

Result<TextSection> TextSpace::enter() {
    TextReaders::Slot* const slot = readers_.mine();
    if (slot == nullptr) [[unlikely]] {
        HARENA_CHECK_OK(fork_guard_.check("the space of text"));
        return fail(ENOMEM, "no memory for a thread to say that it is inside of text");
    }
    readers_.enter(*slot);
    return TextSection{*this, *slot};
}

TextSection::~TextSection() {
    if (space_ != nullptr && space_->readers_.leave(*slot_)) space_->left();
}

void TextSpace::left() noexcept {
    // What cannot be freed now waits, and the next one tries again.
    if (!fork_guard_.owner_dead()) (void)reclaim();
}

void TextSpace::update_pending() noexcept { readers_.set_newest_pending(retired_.empty() ? 0 : retired_.back().epoch); }

Result<void> TextSpace::text_retire(const void* piece, std::function<void()> freed) try {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    {
        const std::lock_guard lock{mutex_};
        HARENA_TRY(TextPiece found, freeable(piece));
        found.flags.retired = true;
        retired_.push_back({.piece = found, .epoch = 0, .freed = std::move(freed)});
        allocator_.set_flags(found, found.flags);
        retired_.back().epoch = readers_.advance();
        update_pending();
    }
    // What cannot be freed now waits: it is retired all the same.
    (void)reclaim();
    return {};
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to retire text");
}

Result<std::vector<TextSpace::Retired>> TextSpace::free_retired() {
    if (fenced_ < retired_.size() && TextReaders::barrier()) fenced_ = retired_.size();
    const TextReaders::Epoch oldest = readers_.oldest();
    const auto fenced = std::span{retired_}.first(fenced_);
    const auto end = std::ranges::lower_bound(fenced, oldest, {}, &Retired::epoch);
    const auto free = fenced.first(static_cast<std::size_t>(end - fenced.begin()));
    // Memory for all, before anything is changed.
    std::vector<Retired> done;
    std::vector<TextPiece> pieces;
    done.reserve(free.size());
    pieces.reserve(free.size());
    for (const Retired& one : free) pieces.push_back(one.piece);
    std::ranges::sort(pieces, {}, &TextPiece::offset);
    HARENA_CHECK_OK(trap(pieces));
    for (const TextPiece& piece : pieces) forget(piece);
    std::ranges::move(free, std::back_inserter(done));
    retired_.erase(retired_.begin(), retired_.begin() + static_cast<std::ptrdiff_t>(done.size()));
    fenced_ -= done.size();
    return done;
}

Result<std::uint64_t> TextSpace::reclaim() try {
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    std::vector<Retired> done;
    bool unfenced = false;
    {
        const std::lock_guard lock{mutex_};
        if (retired_.empty()) return 0;
        HARENA_TRY(done, free_retired());
        unfenced = fenced_ < retired_.size();
        update_pending();
        give_back_surplus();
    }
    for (const Retired& one : done)
        if (one.freed) one.freed();
    if (unfenced) return fail(EPERM, "a sandbox forbids membarrier(2), by which threads say that they have left text");
    return done.size();
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory to free retired text");
}

// --- live patches ---

Result<void> TextSpace::text_patch(void* dest, std::span<const std::byte> bytes, TextPatchMode mode) {
    constexpr std::size_t k_most = 64;
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    if (bytes.empty() || bytes.size() > k_most)
        return fail(EINVAL, "a live patch of {} bytes: it takes 1 to {}", bytes.size(), k_most);
    const std::uint64_t offset = offset_of(dest);
    if (mode == TextPatchMode::plain) {
        if (offset / 8 != (offset + bytes.size() - 1) / 8)
            return fail(EINVAL, "a plain patch of {} bytes at {} is not in one aligned word of 8", bytes.size(),
                        fmt::ptr(dest));
        HARENA_CHECK_OK(plain_patches_permitted());
        const std::lock_guard lock{mutex_};
        HARENA_TRY(const TextPiece piece, writable(dest, bytes.size()));
        return plain_patch(piece, offset, bytes);
    }
    HARENA_CHECK_OK(patcher_->prepare());
    const std::lock_guard one_at_a_time{patch_mutex_};
    TextPiece piece;
    {
        const std::lock_guard lock{mutex_};
        HARENA_TRY(piece, writable(dest, bytes.size()));
        piece.flags.written = piece.flags.patched = piece.flags.patching = true;
        allocator_.set_flags(piece, piece.flags);
        ++counters_.patches;
    }
    auto result = patcher_->patch(offset, bytes);
    const std::lock_guard lock{mutex_};
    piece.flags.patching = false;
    allocator_.set_flags(piece, piece.flags);
    return result;
}

Result<void> TextSpace::plain_patch(const TextPiece& piece, std::uint64_t offset, std::span<const std::byte> bytes) {
    // The whole word: a store of fewer bytes might be made in parts. The rest of it is what it was: nobody else writes
    // while the lock is held.
    const std::uint64_t word_offset = align_down(offset, 8);
    std::array<std::byte, 8> word;
    std::memcpy(word.data(), base_ + word_offset, word.size());
    std::memcpy(word.data() + (offset - word_offset), bytes.data(), bytes.size());
    mark_written(piece);
    ++counters_.patches;
    return file_->write(word_offset, word);
}

Result<void> TextSpace::plain_patches_permitted() {
    static std::mutex mutex;
    static bool found_out = false;
    static Result<void> permitted;
    HARENA_CHECK_OK(fork_guard_.check("the space of text"));
    const std::lock_guard lock{mutex};
    if (found_out) return permitted;
    if (!text_machine::fetches_aligned_words_whole()) {
        permitted =
            fail(ENOTSUP, "the processor's vendor does not promise that it fetches aligned words of text whole");
    } else if (std::thread::hardware_concurrency() < 2) {
        permitted = fail(ENOTSUP, "plain patches cannot be tried out on one processor");
    } else {
        auto tried = try_plain_patches();
        if (!tried && tried.error().code() != ENOTSUP) return tried;  // not found out
        permitted = std::move(tried);
    }
    found_out = true;
    return permitted;
}

Result<void> TextSpace::try_plain_patches() {
    constexpr std::uint64_t k_changes = 1'000;   // that the reader must have seen
    constexpr std::uint64_t k_writes = 500'000;  // within so many
    constexpr std::uint64_t k_pattern = 0x0101'0101'0101'0101;
    HARENA_TRY(void* const text, text_alloc(64, {.alignment = 64}));
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> changes{0};
    std::atomic<std::uint64_t> torn{0};
    auto reader = start_background_thread("the self-test of plain patches", [&] {
        auto* const word = static_cast<volatile const std::uint64_t*>(text);
        for (std::uint64_t last = *word; !stop.load(std::memory_order_relaxed);) {
            const std::uint64_t now = *word;
            if (now == last) continue;
            last = now;
            changes.fetch_add(1, std::memory_order_relaxed);
            if (now % k_pattern != 0) torn.fetch_add(1, std::memory_order_relaxed);
        }
    });
    Result<void> result = reader ? Result<void>{} : pass_on(reader.error());
    for (std::uint64_t i = 0; result && i < k_writes && changes.load(std::memory_order_relaxed) < k_changes; ++i) {
        const std::uint64_t value = k_pattern * (i % 200 + 1);
        std::array<std::byte, sizeof value> bytes;
        std::memcpy(bytes.data(), &value, sizeof value);
        result = text_poke(text, bytes);
    }
    stop.store(true, std::memory_order_relaxed);
    if (reader) reader->join();
    const auto freed = text_free(text);
    HARENA_CHECK_OK(std::move(result));
    HARENA_CHECK_OK(freed);
    if (torn.load() != 0)
        return fail(ENOTSUP, "plain patches are not whole here: {} of {} were torn", torn.load(), changes.load());
    if (changes.load() < k_changes)
        return fail(EAGAIN, "plain patches could not be tried out: the machine is too busy");
    return {};
}

}  // namespace harena
