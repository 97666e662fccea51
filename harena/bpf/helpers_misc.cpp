// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>

#include <fmt/format.h>

#include "harena/base/os/process.hpp"
#include "harena/bpf/helper_call.hpp"
#include "harena/bpf/helpers.hpp"
#include "harena/bpf/printable.hpp"

namespace harena::bpf::helpers {

Value ktime_get_ns(HelperCall&) { return Value::scalar(os::monotonic_ns()); }
Value ktime_get_boot_ns(HelperCall&) { return Value::scalar(os::boottime_ns()); }
Value get_smp_processor_id(HelperCall&) { return Value::scalar(os::current_cpu()); }

Value get_prandom_u32(HelperCall&) {
    thread_local std::minstd_rand generator{static_cast<std::uint32_t>(os::random_u64())};
    // Two draws: one of minstd_rand has 31 bits.
    return Value::scalar(static_cast<std::uint32_t>((generator() << 16) ^ generator()));
}

Value get_current_pid_tgid(HelperCall&) {
    const auto process = static_cast<std::uint64_t>(os::process_id());
    return Value::scalar(process << 32 | static_cast<std::uint32_t>(os::thread_id()));
}

Value get_current_comm(HelperCall& call) {
    const std::span<std::byte> out = call.output(0);
    if (out.empty()) return Value::scalar(static_cast<std::uint64_t>(std::int64_t{-EINVAL}));
    const std::string name = os::thread_name();
    std::ranges::fill(out, std::byte{0});
    std::memcpy(out.data(), name.data(), std::min(name.size(), out.size() - 1));
    return Value::scalar(0);
}

Value string_compare(HelperCall& call) {
    // As strncmp: up to the size or the first zero byte; the second string's end is a zero byte.
    const std::span<const std::byte> a = call.input(0);
    const std::string_view b = call.text(2);
    for (std::size_t i = 0; i < a.size(); ++i) {
        const auto ca = static_cast<unsigned char>(a[i]);
        const auto cb = i < b.size() ? static_cast<unsigned char>(b[i]) : static_cast<unsigned char>(0);
        if (ca != cb) return Value::scalar(static_cast<std::uint64_t>(std::int64_t{ca < cb ? -1 : 1}));
        if (ca == 0) break;
    }
    return Value::scalar(0);
}

namespace {

// One conversion of a printk format after its '%': flags, width and precision are not taken. Empty if it is not known.
std::string format_one(std::string_view& format, std::uint64_t argument) {
    unsigned longs = 0;
    while (!format.empty() && format.front() == 'l') {
        ++longs;
        format.remove_prefix(1);
    }
    if (format.empty()) return {};
    const char conversion = format.front();
    format.remove_prefix(1);
    const bool wide = longs > 0;
    const auto narrow = static_cast<std::uint32_t>(argument);
    switch (conversion) {
        case 'd':
        case 'i':
            return wide ? fmt::format("{}", static_cast<std::int64_t>(argument))
                        : fmt::format("{}", static_cast<std::int32_t>(narrow));
        case 'u':
            return fmt::format("{}", wide ? argument : narrow);
        case 'x':
            return fmt::format("{:x}", wide ? argument : narrow);
        case 'X':
            return fmt::format("{:X}", wide ? argument : narrow);
        case 'p':
            return fmt::format("{:016x}", argument);
        case 'c':
            return std::string(1, static_cast<char>(narrow));
        default:
            return {};
    }
}

}  // namespace

// %d %i %u %x %X %p %c, with l or ll, and %%; at most three, in a format of at most 1,023 bytes. Others, %s among them,
// and characters that are neither printable nor blanks are EINVAL: the result says so.
Value trace_printk(HelperCall& call) {
    constexpr std::size_t k_max_format = 1023;
    const Value invalid = Value::scalar(static_cast<std::uint64_t>(std::int64_t{-EINVAL}));
    const std::span<const std::byte> bytes = call.input(0);
    std::string_view format{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    const std::size_t end = format.find('\0');
    if (end > k_max_format) return invalid;  // also if there is no end
    format = format.substr(0, end);
    const auto is_text = [](unsigned char c) { return (c >= 0x20 && c < 0x7f) || (c >= '\t' && c <= '\r'); };
    if (!std::ranges::all_of(format, is_text)) return invalid;
    std::string line;
    unsigned used = 0;
    while (!format.empty()) {
        const char c = format.front();
        format.remove_prefix(1);
        if (c != '%') {
            line += c;
        } else if (!format.empty() && format.front() == '%') {
            line += '%';
            format.remove_prefix(1);
        } else {
            if (used == 3) return invalid;
            const std::string converted = format_one(format, call.optional_scalar(2 + used++));
            if (converted.empty()) return invalid;
            line += converted;
        }
    }
    if (call.image().trace) {
        call.image().trace(line);
    } else {
        // In one piece, and without control characters that %c can make. That stderr is closed or full is no error of
        // the program.
        std::string text = printable(line.ends_with('\n') ? std::string_view{line}.substr(0, line.size() - 1) : line);
        text += '\n';
        (void)std::fwrite(text.data(), 1, text.size(), stderr);
    }
    return Value::scalar(line.size());
}

}  // namespace harena::bpf::helpers
