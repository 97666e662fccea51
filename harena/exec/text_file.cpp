// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/text_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>

#include "harena/base/map_error.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/exec/text_registry.hpp"
#include "harena/exec/text_x86_64.hpp"

namespace harena {

namespace {

constexpr int k_reservation = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
constexpr std::string_view k_write = "a write to the file of text";

template <std::size_t k_bytes>
constexpr std::array<std::byte, k_bytes> filled_with(std::byte value) {
    std::array<std::byte, k_bytes> bytes{};
    bytes.fill(value);
    return bytes;
}
alignas(64) constexpr auto k_traps = filled_with<64 * k_kib>(text_machine::k_trap);

}  // namespace

Result<std::unique_ptr<TextFile>> TextFile::create(std::byte* base, std::uint64_t bytes, bool huge) {
    HARENA_CHECK_OK(check_file_size(bytes, "the file of text"));
    auto file = os::memfd_create("harena:text");
    if (!file) return os::fail_with(file.error(), "cannot create the memfd of text");
    if (const auto sized = os::ftruncate(file->get(), bytes); !sized)
        return os::fail_with(sized.error(), fmt::format("cannot size the memfd of text to {} bytes", bytes));
    if (const auto sealed = os::add_seals(file->get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL); !sealed)
        return os::fail_with(sealed.error(), "cannot seal the size of the memfd of text");
    return std::unique_ptr<TextFile>{new TextFile{std::move(*file), base, huge}};
}

os::SysResult<void> TextFile::map_nothing(std::uint64_t block) noexcept {
    // Not munmap: another thread could take the addresses.
    std::byte* const at = base_ + block * k_text_block;
    const auto mapped = os::mmap(at, k_text_block, PROT_NONE, k_reservation | MAP_FIXED, -1, 0);
    if (!mapped) return std::unexpected{mapped.error()};
    (void)os::madvise(at, k_text_block, MADV_DONTFORK);  // one mapping with its neighbours
    return {};
}

void TextFile::undo_growth(std::uint64_t block) noexcept {
    // Where the kernel has no mapping left, what is there is at least nothing that can be read.
    if (!map_nothing(block)) (void)os::mprotect(base_ + block * k_text_block, k_text_block, PROT_NONE);
    (void)os::punch_hole(fd_.get(), block * k_text_block, k_text_block);
}

Result<void> TextFile::grow(std::uint64_t block) {
    std::byte* const at = base_ + block * k_text_block;
    const std::uint64_t offset = block * k_text_block;
    HARENA_CHECK_OK(check_file_size(offset + k_text_block, k_write));
    const auto no_fork = text_registry::block_forks();  // until the advice is given
    const auto map = [&](int protection) -> Result<void> {
        const auto mapped =
            os::mmap(at, k_text_block, protection, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd_.get(), offset);
        if (!mapped) return map_error(mapped.error(), "cannot map 2 MiB more of text");
        if (const auto advised = os::madvise(at, k_text_block, MADV_DONTFORK); !advised)
            return os::fail_with(advised.error(), "cannot keep text from forked children");
        return {};
    };
    bool collapsed = false;
    const auto make = [&]() -> Result<void> {
        if (huge_) {
            // While it is nearly empty, and cannot be executed: a collapse fills holes with zeros, which are
            // instructions.
            HARENA_CHECK_OK(map(PROT_READ));
            const bool touched = os::madvise(at, k_page_size, os::k_madv_populate_read).has_value();
            collapsed = touched && os::madvise(at, k_text_block, os::k_madv_collapse);
        }
        HARENA_CHECK_OK(fill(offset, k_text_block));
        return map(PROT_READ | PROT_EXEC);
    };
    if (auto made = make(); !made) {
        undo_growth(block);
        return made;
    }
    // Its one entry now, rather than at the first call. A block that did not collapse is not worth 512.
    if (collapsed) (void)os::madvise(at, k_page_size, os::k_madv_populate_read);
    (collapsed ? collapsed_ : not_collapsed_).fetch_add(1, std::memory_order_relaxed);
    return {};
}

Result<void> TextFile::give_back(std::uint64_t block) {
    if (const auto gone = map_nothing(block); !gone)
        return map_error(gone.error(), "cannot unmap 2 MiB of text that are given back");
    // Nobody sees the memory any more; where it cannot be had back, the block is filled anew when it is used again.
    (void)os::punch_hole(fd_.get(), block * k_text_block, k_text_block);
    return {};
}

Result<void> TextFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
    HARENA_CHECK_OK(check_file_size(offset + bytes.size(), k_write));  // it may have been lowered
    while (!bytes.empty()) {
        const auto written = os::pwrite(fd_.get(), bytes.data(), bytes.size(), offset);
        if (!written && written.error().code == EINTR) continue;
        if (!written) return os::fail_with(written.error(), "cannot write text");
        bytes = bytes.subspan(*written);
        offset += *written;
    }
    return {};
}

Result<void> TextFile::fill_with_traps(std::uint64_t offset, std::uint64_t bytes) {
    HARENA_CHECK_OK(check_file_size(offset + bytes, k_write));
    return fill(offset, bytes);
}

Result<void> TextFile::fill(std::uint64_t offset, std::uint64_t bytes) {
    while (bytes > 0) {
        const auto written = os::write_repeated(fd_.get(), k_traps, bytes, offset);
        if (!written && written.error().code == EINTR) continue;
        if (!written) return os::fail_with(written.error(), "cannot fill text with traps");
        bytes -= *written;
        offset += *written;
    }
    return {};
}

}  // namespace harena
