// SPDX-License-Identifier: Apache-2.0
// Secrets on pages of their own. A run begins with a key; all else of it that is not the secret is canary.
#include <algorithm>
#include <cerrno>
#include <new>

#include "harena/base/os/memory.hpp"
#include "harena/secret/slab_store.hpp"

namespace harena {

struct PageRun {
    SecretSpan pages;
    bool own_span = false;  // not of a block
    std::byte* at = nullptr;
    std::size_t bytes = 0;
    std::uint16_t check = 0;  // made of all above and the key

    [[nodiscard]] CanaryKey& key() const noexcept { return *reinterpret_cast<CanaryKey*>(pages.begin); }
    [[nodiscard]] Canary canary() const noexcept { return {key(), 0}; }
    [[nodiscard]] std::byte* end() const noexcept { return pages.begin + pages.bytes(); }
    [[nodiscard]] std::uint16_t expected_check() const noexcept {
        return Canary{key(), reinterpret_cast<std::uint64_t>(at) ^ (own_span ? 1 : 0)}.check_of(bytes ^ pages.pages
                                                                                                            << 42);
    }
};

namespace {

std::size_t run_offset(std::size_t alignment) noexcept { return std::max(alignment, k_slab_header); }

Result<void> make_key(std::byte* at) {
    if (const auto filled = os::fill_random(at, sizeof(CanaryKey)); !filled)
        return os::fail_with(filled.error(), "no random bytes for the canaries of secrets");
    return {};
}

void check_round(const PageRun& run) noexcept {
    if (run.check != run.expected_check()) stop_after(Violation::record_overwritten, run.at);
    const Canary canary = run.canary();
    if (!canary.intact(run.at + run.bytes, run.end())) stop_after(Violation::overrun, run.at, run.bytes);
    if (!canary.intact(run.pages.begin + k_slab_header, run.at)) stop_after(Violation::underrun, run.at, run.bytes);
}

}  // namespace

template <typename Visit>
void SlabStore::each_run(Visit&& visit) noexcept {
    std::uint64_t left = runs_;
    for (std::size_t page = 0; left > 0 && page < entries_.size(); ++page) {
        const std::uintptr_t entry = entries_[page];
        if ((entry & k_run) == 0) continue;
        auto* const run = reinterpret_cast<PageRun*>(entry - k_run);
        page += run->pages.pages - 1;
        --left;
        visit(run);
    }
}

SlabStore::~SlabStore() {
    each_run([](PageRun* run) { delete run; });
}

void SlabStore::wipe_all() noexcept {
    each_run([](const PageRun* run) { wipe(run->pages.begin, run->pages.bytes()); });
    blocks_.wipe_all();
}

std::uint64_t SlabStore::run_pages(std::size_t bytes, std::size_t alignment) noexcept {
    return pages_for(run_offset(alignment) + bytes + Canary::k_bytes).value();
}

void* SlabStore::begin_run(std::unique_ptr<PageRun> run, std::byte* at, std::size_t bytes) noexcept {
    Canary::make_usable(run->key());
    run->at = at;
    run->bytes = bytes;
    run->check = run->expected_check();
    run->canary().fill(run->pages.begin + k_slab_header, at);
    run->canary().fill(at + bytes, run->end());
    const SecretSpan pages = run->pages;
    ++runs_;
    run_bytes_ += bytes;
    set_entries(pages.begin, pages.pages, reinterpret_cast<std::uintptr_t>(run.release()) | k_run);
    return at;
}

Result<void*> SlabStore::alloc_run(std::size_t bytes, std::size_t alignment) try {
    auto run = std::make_unique<PageRun>();
    run->pages.pages = run_pages(bytes, alignment);
    const std::lock_guard lock{mutex_};
    run->pages.begin = blocks_.take(run->pages.pages);
    if (run->pages.begin == nullptr) return nullptr;
    if (auto made = make_key(run->pages.begin); !made) {
        blocks_.give(run->pages.begin, run->pages.pages);
        return pass_on(std::move(made).error());
    }
    std::byte* const at = run->pages.begin + run_offset(alignment);
    return begin_run(std::move(run), at, bytes);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of a secret");
}

Result<void*> SlabStore::alloc_span(std::size_t bytes, std::size_t alignment) try {
    auto run = std::make_unique<PageRun>();
    const std::uint64_t room = align_up(bytes, std::max(alignment, Canary::k_bytes));
    HARENA_TRY(run->pages, space_.map(pages_for(k_slab_header + room).value()));
    run->own_span = true;
    if (auto made = make_key(run->pages.begin); !made) {
        space_.unmap(run->pages);
        return pass_on(std::move(made).error());
    }
    std::byte* const at = run->end() - room;
    const std::lock_guard lock{mutex_};
    return begin_run(std::move(run), at, bytes);
} catch (const std::bad_alloc&) {
    return fail(ENOMEM, "no memory for the records of a secret");
}

PageRun* SlabStore::run_of(const std::byte* at) const noexcept {
    const std::uintptr_t entry = entry_of(at);
    if ((entry & k_run) == 0) return nullptr;
    auto* const run = reinterpret_cast<PageRun*>(entry - k_run);
    return run->at == at ? run : nullptr;
}

std::size_t SlabStore::run_size_of(const std::byte* at) const noexcept {
    const std::lock_guard lock{mutex_};
    const PageRun* const run = run_of(at);
    return run == nullptr ? 0 : run->bytes;
}

void SlabStore::free_run(std::byte* at) noexcept {
    std::unique_ptr<PageRun> run;
    {
        const std::lock_guard lock{mutex_};
        run.reset(run_of(at));
        if (!run) stop_after(entry_of(at) == k_freed ? Violation::double_free : Violation::not_allocated, at);
        check_round(*run);
        set_entries(run->pages.begin, run->pages.pages, k_freed);
        --runs_;
        run_bytes_ -= run->bytes;
    }
    if (run->own_span) {
        space_.unmap(run->pages);
        return;
    }
    wipe(run->pages.begin, run->pages.bytes());
    const std::lock_guard lock{mutex_};
    blocks_.give(run->pages.begin, run->pages.pages);
}

}  // namespace harena
