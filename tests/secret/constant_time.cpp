// SPDX-License-Identifier: Apache-2.0
// Whether the comparison of secrets takes the same time whatever is in them, by statistics: the times of two classes of
// inputs, in random order, must have the same mean (Welch's t-test), after the slowest are left out, which are
// interrupts. The method: Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", 2017.
//
// Noise of the machine can make any one run look different, so a class is called different only if it is in each of
// several runs. That the method sees a difference is shown by a comparison that stops at the first: if it does not, the
// machine is too noisy to say anything, which is said, and is no failure.
//
//     harena_constant_time [RUNS]
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "harena/secret/wipe.hpp"

namespace {

constexpr std::size_t k_bytes = 512;
constexpr int k_samples = 40'000;
constexpr int k_calls_of_sample = 8;
constexpr double k_different = 5.0;  // t; one in millions by chance, for equal means
constexpr double k_kept = 0.8;       // of the samples, the fastest

using Input = std::array<std::byte, k_bytes>;
using Compare = bool (*)(std::span<const std::byte>, std::span<const std::byte>);

bool stops_at_the_first(std::span<const std::byte> a, std::span<const std::byte> b) {
    for (std::size_t i = 0; i < a.size(); ++i)
        if (*static_cast<const volatile std::byte*>(&a[i]) != b[i]) return false;
    return true;
}

double mean(std::span<const double> values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
}
double variance(std::span<const double> values, double middle) {
    double sum = 0;
    for (const double value : values) sum += (value - middle) * (value - middle);
    return sum / static_cast<double>(values.size() - 1);
}

/// Both classes cut at the same time, so that the cut cannot make a difference.
double t_of(std::array<std::vector<double>, 2>& times) {
    std::vector<double> all = times[0];
    all.insert(all.end(), times[1].begin(), times[1].end());
    const auto cut = all.begin() + static_cast<std::ptrdiff_t>(k_kept * static_cast<double>(all.size()));
    std::nth_element(all.begin(), cut, all.end());
    for (std::vector<double>& one : times) std::erase_if(one, [limit = *cut](double value) { return value > limit; });
    if (times[0].size() < 100 || times[1].size() < 100) return HUGE_VAL;
    const std::array means{mean(times[0]), mean(times[1])};
    const double error = variance(times[0], means[0]) / static_cast<double>(times[0].size()) +
                         variance(times[1], means[1]) / static_cast<double>(times[1].size());
    return error == 0 ? (means[0] == means[1] ? 0 : HUGE_VAL) : std::fabs(means[0] - means[1]) / std::sqrt(error);
}

/// Times of `compare` with inputs of class 0 (equal) and class 1 (`difference` bytes from the begin is one that is
/// not).
double measure(Compare compare, std::size_t difference, std::mt19937_64& random) {
    Input secret;
    for (std::byte& one : secret) one = static_cast<std::byte>(random());
    // One buffer for both classes, written anew for each sample: the same addresses and the same state of the caches.
    Input tried;
    std::array<std::vector<double>, 2> times;
    volatile bool sink = false;
    for (int i = 0; i < k_samples; ++i) {
        const std::size_t kind = random() >> 63;
        tried = secret;
        tried[difference] ^= kind == 0 ? std::byte{0} : std::byte{0x10};
        const auto begin = std::chrono::steady_clock::now();
        for (int call = 0; call < k_calls_of_sample; ++call) sink = compare(secret, tried);
        const auto end = std::chrono::steady_clock::now();
        times[kind].push_back(std::chrono::duration<double, std::nano>(end - begin).count());
    }
    (void)sink;
    return t_of(times);
}

/// The smallest t of some runs: what differs, differs in each.
double smallest_t(Compare compare, std::size_t difference, int runs, std::mt19937_64& random) {
    double smallest = HUGE_VAL;
    for (int run = 0; run < runs; ++run) {
        smallest = std::min(smallest, measure(compare, difference, random));
        if (smallest < k_different) break;
    }
    return smallest;
}

}  // namespace

int main(int argc, char** argv) {
    const int runs = argc > 1 ? std::atoi(argv[1]) : 6;
    if (argc > 2 || runs < 1) {
        fmt::print(stderr, "usage: harena_constant_time [RUNS]\n");
        return 2;
    }
    std::mt19937_64 random{std::random_device{}()};
    const double control = smallest_t(&stops_at_the_first, 0, 1, random);
    fmt::print("stops at the first difference:  t = {:.1f}\n", control);
    if (control < k_different) {
        fmt::print("the machine is too noisy to see any difference; nothing is shown\n");
        return 0;
    }
    int status = 0;
    for (const std::size_t difference : {std::size_t{0}, k_bytes / 2, k_bytes - 1}) {
        const double t = smallest_t(&harena::equal_in_constant_time, difference, runs, random);
        fmt::print("equal_in_constant_time, byte {:3}: t = {:.1f}\n", difference, t);
        if (t >= k_different) status = 1;
    }
    fmt::print("{}\n", status == 0 ? "no difference seen" : "the time depends on the bytes");
    return status;
}
