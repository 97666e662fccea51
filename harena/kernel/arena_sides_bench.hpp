// SPDX-License-Identifier: Apache-2.0
// The two sides of harena_arena_bench: the same work on our arena and on Linux's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "harena/arena/fault_handler.hpp"
#include "harena/arena/nofault.hpp"
#include "harena/arena/process_arena.hpp"
#include "harena/base/compare_bench.hpp"
#include "harena/base/os/bpf.hpp"
#include "harena/base/os/memory.hpp"
#include "harena/base/page_math.hpp"
#include "harena/bpf/object.hpp"
#include "harena/kernel/kernel_engine.hpp"
#include "harena/kernel/kernel_program.hpp"

namespace harena::bench {

/// What both sides are asked for.
struct Wanted {
    PageCount pages;
    // Ours only; what is not given is as `ArenaOptions` has it.
    std::optional<PageCount> recycle = std::nullopt;
    std::optional<PageCount> fault_granule = std::nullopt;
    bool never_huge = false;
};

/// An arena of this process, with the calls that programs make.
class Ours {
public:
    explicit Ours(const Wanted& wanted) {
        ArenaOptions options{.name = "bench", .pages = wanted.pages};
        ArenaTuning& tuning = options.tuning;
        tuning.recycle = wanted.recycle.value_or(tuning.recycle);
        tuning.fault_granule = wanted.fault_granule.value_or(tuning.fault_granule);
        if (wanted.never_huge) tuning.huge_pages = HugePages::never;
        arena_ = must(ProcessArena::create(options));
        must(fault_handler::prepare_thread());
    }

    [[nodiscard]] Arena& arena() const { return *arena_; }

    /// Seconds of `count` allocations of one page each.
    [[nodiscard]] double alloc_each(std::uint64_t count) const {
        std::uint64_t done = 0;
        const double took = seconds([&] {
            for (std::uint64_t i = 0; i < count; ++i) done += arena_->kfunc_alloc_pages(0, 1, -1, 0) != 0 ? 1U : 0U;
        });
        must(done == count, "every page of ours was allocated");
        return took;
    }

    /// Seconds of `count` pairs of an allocation and a free of one page.
    [[nodiscard]] double alloc_free_pairs(std::uint64_t count) const {
        std::uint64_t done = 0;
        const double took = seconds([&] {
            for (std::uint64_t i = 0; i < count; ++i) {
                const std::uint64_t page = arena_->kfunc_alloc_pages(0, 1, -1, 0);
                done += page != 0 ? 1U : 0U;
                arena_->kfunc_free_pages(page, 1);
            }
        });
        must(done == count, "every page of ours was allocated");
        return took;
    }

    /// Seconds of one free of all pages.
    [[nodiscard]] double free_all() const {
        const auto count = static_cast<std::uint32_t>(arena_->pages().value());
        return seconds([&] { arena_->kfunc_free_pages(arena_->user_vm_start().value(), count); });
    }

    /// Seconds of a program's read of a word in each page, all absent, as interpreter and JIT read it. What an engine
    /// does besides, to report the fault, is not in it.
    [[nodiscard]] double read_each() const {
        std::uint64_t absent = 0;
        const auto begin = reinterpret_cast<std::uintptr_t>(arena_->data());
        const double took = seconds([&] {
            for (std::uintptr_t at = begin; at < begin + arena_->size(); at += k_page_size) {
                const nofault::Access access = nofault::load(at, 8);
                absent += access.faulted != 0 && access.value == 0 ? 1U : 0U;
            }
        });
        must(absent == arena_->pages().value(), "every page of ours was absent");
        return took;
    }

private:
    std::shared_ptr<ProcessArena> arena_;
};

/// An arena of Linux, with the programs of arena_bench.bpf.c.
///
/// They are not run by `KernelProgram::run`, which has each of their page faults traced: that is not Linux's.
class Linux {
public:
    explicit Linux(const Wanted& wanted) : Linux{must(open(wanted.pages))} {}

    /// Whether there can be any: EPERM and others, as `bpf::Object::load`.
    [[nodiscard]] static Result<void> available() {
        HARENA_TRY(const bpf::Object object, open(PageCount{1}));
        HARENA_CHECK_OK(object.arena());
        return {};
    }

    [[nodiscard]] Arena& arena() const { return *arena_; }
    [[nodiscard]] double alloc_each(std::uint64_t count) const { return run("alloc_each", count); }
    [[nodiscard]] double alloc_free_pairs(std::uint64_t count) const { return run("alloc_free_pairs", count); }
    [[nodiscard]] double free_all() const { return run("free_range", arena_->pages().value()); }
    /// Linux writes to the program's error stream of each such read until 100,000 bytes are there: that is over in the
    /// first round, which does not count.
    [[nodiscard]] double read_each() const { return run("read_each", arena_->pages().value()); }

private:
    explicit Linux(bpf::Object object) : object_{std::move(object)}, arena_{must(object_.arena())} {}

    [[nodiscard]] static Result<bpf::Object> open(PageCount pages) {
        HARENA_TRY(bpf::Object object, bpf::Object::open(HARENA_BENCH_OBJECT, {.arena_pages = pages}));
        HARENA_CHECK_OK(object.load(kernel::engine()));
        return object;
    }

    /// The seconds that the program measured, in as many runs as it takes: Linux ends a loop after 250 ms.
    [[nodiscard]] double run(const char* name, std::uint64_t count) const {
        const int program = dynamic_cast<kernel::KernelProgram&>(*must(object_.program(name))).fd();
        std::uint64_t ns = 0;
        std::uint64_t address = arena_->user_vm_start().value();
        for (std::uint64_t left = count; left > 0;) {
            global("wanted") = left;
            global("address") = address;
            global("done") = 0;
            const auto ran = os::bpf_program_run(program, {});
            must(ran && *ran == 0, "Linux ran the program");
            const std::uint64_t done = global("done");
            must(done != 0 && done <= left, "Linux's program did what was wanted");
            ns += global("ns");
            address += done * k_page_size;
            left -= done;
        }
        return static_cast<double>(ns) / 1e9;
    }

    [[nodiscard]] std::uint64_t& global(const char* name) const { return *must(object_.global<std::uint64_t>(name)); }

    bpf::Object object_;
    std::shared_ptr<Arena> arena_;
};

/// Allocated or touched, and not freed.
inline PageCount used(Arena& arena) { return must(arena.statistics()).used; }

/// Seconds of the host's write to each page of the arena, from the first to the last. Words 1 to 511 are not written.
inline double touch_each(const Arena& arena) {
    volatile std::byte* const begin = arena.data();
    return seconds([&] {
        for (std::uint64_t at = 0; at < arena.size(); at += k_page_size) begin[at] = std::byte{1};
    });
}

/// Whether words 1 and 511 of each page are 0, which is what a new page has. Read after `touch_each`.
inline bool zeroed(const Arena& arena) {
    std::uint64_t bits = 0;
    for (std::uint64_t at = 0; at < arena.size(); at += k_page_size) {
        const auto* const words = reinterpret_cast<const volatile std::uint64_t*>(arena.data() + at);
        bits |= words[1] | words[511];
    }
    return bits == 0;
}

}  // namespace harena::bench
