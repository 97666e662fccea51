// SPDX-License-Identifier: Apache-2.0
// For benchmarks: what we do beside what a peer does, in one run.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "harena/base/result.hpp"

namespace harena::bench {

/// Keeps the compiler from dropping the computation of `value`.
template <typename T>
void keep(const T& value) {
    [[maybe_unused]] const volatile void* const volatile seen = static_cast<const volatile void*>(&value);
    std::atomic_signal_fence(std::memory_order_acq_rel);
}

/// What a call returned that does not fail in a benchmark; ends the process with the error if it did.
template <typename T>
T must(Result<T> result) {
    if (!result) {
        fmt::print(stderr, "benchmark: {}\n", result.error().message());
        std::exit(1);
    }
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Ends the process unless what was measured also happened.
inline void must(bool held, std::string_view what) {
    if (held) return;
    fmt::print(stderr, "benchmark: not so: {}\n", what);
    std::exit(1);
}

/// Seconds that `work()` takes.
template <typename Work>
double seconds(Work&& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

inline double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::ranges::nth_element(values, middle);
    return *middle;
}

struct Pair {
    double ours;
    double peer;
};

/// The medians of each of the values that `ours()` and `peer()` return (a std::array of the same size), called in turn
/// `rounds` times after one round that does not count.
template <typename Ours, typename Peer>
auto alternate_several(int rounds, Ours&& ours, Peer&& peer) {
    using Values = std::invoke_result_t<Ours>;
    static_assert(std::is_same_v<Values, std::invoke_result_t<Peer>>);
    constexpr std::size_t k_values = std::tuple_size_v<Values>;
    std::array<std::vector<double>, k_values> ours_values;
    std::array<std::vector<double>, k_values> peer_values;
    for (int round = 0; round <= rounds; ++round) {
        const Values a = ours();
        const Values b = peer();
        if (round == 0) continue;  // warms up
        for (std::size_t i = 0; i < k_values; ++i) {
            ours_values[i].push_back(a[i]);
            peer_values[i].push_back(b[i]);
        }
    }
    std::array<Pair, k_values> medians{};
    for (std::size_t i = 0; i < k_values; ++i)
        medians[i] = {median(std::move(ours_values[i])), median(std::move(peer_values[i]))};
    return medians;
}

/// The same for one value.
template <typename Ours, typename Peer>
Pair alternate(int rounds, Ours&& ours, Peer&& peer) {
    return alternate_several(
        rounds, [&] { return std::array<double, 1>{ours()}; }, [&] { return std::array<double, 1>{peer()}; })[0];
}

/// The rows of one benchmark executable: printed for people, and written to a file for `./dev bench --json`.
class Report {
public:
    void add(std::string_view name, const Pair& values, std::string_view peer_name, std::string_view unit,
             std::string_view note = "") {
        // Against nothing, there is no ratio.
        const nlohmann::json ratio = values.peer == 0 ? nlohmann::json{} : nlohmann::json(values.ours / values.peer);
        rows_.push_back({{"name", name},
                         {"ours", values.ours},
                         {"peer_name", peer_name},
                         {"peer", values.peer},
                         {"unit", unit},
                         {"ratio", ratio}});
        if (!note.empty()) rows_.back()["note"] = note;
        fmt::print("{:<32} {:>12.4g} {:<8} {:>12.4g} {:<34} ratio {}{}{}\n", name, values.ours, unit, values.peer,
                   peer_name, values.peer == 0 ? "-" : fmt::format("{:.4f}", values.ours / values.peer),
                   note.empty() ? "" : "  ", note);
        (void)std::fflush(stdout);
    }

    /// A row that could not be measured here.
    static void skip(std::string_view name, std::string_view reason) {
        fmt::print("{:<32} skipped: {}\n", name, reason);
    }

    /// Writes the rows to FILE if the arguments are "--json FILE". Returns the exit status.
    [[nodiscard]] int write(int argc, const char* const* argv) const {
        if (argc == 1) return 0;
        if (argc != 3 || std::string_view{argv[1]} != "--json") {
            fmt::print(stderr, "usage: {} [--json FILE]\n", argv[0]);
            return 2;
        }
        std::ofstream out{argv[2]};
        out << rows_.dump(2) << '\n';
        out.close();
        if (out) return 0;
        fmt::print(stderr, "{}: {} cannot be written\n", argv[0], argv[2]);
        return 1;
    }

private:
    nlohmann::json rows_ = nlohmann::json::array();
};

}  // namespace harena::bench
