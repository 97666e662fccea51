// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harena/arena/process_arena.hpp"
#include "tests/torture/shared_log.hpp"

namespace harena::torture {

/// One thread's random operations on the arena. Whatever must not be is written to the log and ends the process.
class Worker {
public:
    /// `thread` of all; `park_fd` gets a byte when this thread has stopped because the log says so.
    Worker(ProcessArena& arena, SharedLog& log, std::size_t thread, std::uint16_t life, std::uint64_t seed,
           std::uint64_t granule, int park_fd);

    /// Until the process is killed.
    [[noreturn]] void run();

private:
    enum class Call : std::uint8_t { alloc, alloc_at, reserve, free, touch, populate, load, write, look, tune };

    /// A page that was claimed and touched. It is this thread's if nobody who was in the middle of a call then says
    /// that he had got it.
    struct Touched {
        std::uint64_t page;
        std::array<std::uint64_t, k_threads> steps;
    };

    void park_if_asked();
    void one_operation();
    void allocate(std::uint64_t count);
    void allocate_at(std::uint64_t page, std::uint64_t count);
    void reserve(std::uint64_t page, std::uint64_t count);
    void free_some();
    void touch(std::uint64_t page, bool plainly);
    void touch_wildly(std::uint64_t page);
    void read_as_a_program(std::uint64_t page);
    void look_around();

    void adopt_touched();
    /// The arena gave these pages to this thread.
    void take(std::uint64_t page, std::uint64_t count, Holding as);
    void fill(std::uint64_t page);
    void check_pattern(std::uint64_t page);
    void check_zero(std::uint64_t page, std::string_view what);
    void expect_stray(std::uint64_t page);

    void begin(std::uint64_t in_doubt);
    void end();
    template <typename Body>
    auto timed(Call call, Body&& body);
    [[nodiscard]] std::uint64_t* words_of(std::uint64_t page) const;
    [[nodiscard]] std::uint64_t page_of(const void* address) const;
    [[nodiscard]] Entry me(Holding holding) const { return {holding, thread_, life_}; }
    [[noreturn]] void violation(const std::string& what);

    ProcessArena& arena_;
    SharedLog& log_;
    ThreadLog& mine_;
    const std::uint8_t thread_;
    const std::uint16_t life_;
    const std::uint64_t granule_;
    const int park_fd_;
    Random random_;
    std::uint64_t sequence_ = 0;
    std::vector<std::uint64_t> owned_;
    std::vector<Touched> touched_;
};

/// Checks a page that has the pattern: where it differs first, or -1.
[[nodiscard]] int first_difference(const std::uint64_t* words, std::uint64_t first) noexcept;

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t value) noexcept;
void futex_wake(std::atomic<std::uint32_t>& word) noexcept;

}  // namespace harena::torture
