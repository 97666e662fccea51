// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cerrno>

#include "harena/bpf/helper_call.hpp"
#include "harena/bpf/helpers.hpp"

namespace harena::bpf::helpers {

namespace {

Value errno_result(int negative_errno) {
    return Value::scalar(static_cast<std::uint64_t>(std::int64_t{negative_errno}));
}

}  // namespace

Value map_lookup_elem(HelperCall& call) {
    ProcessMap& map = call.map(0);
    std::byte* const value = map.find(call.input(1).data());
    if (value == nullptr) return Value::scalar(0);
    return Value::region(Kind::map_value, reinterpret_cast<std::uint64_t>(value), map.definition().value_size);
}

Value map_update_elem(HelperCall& call) {
    return errno_result(call.map(0).update_elem(call.input(1).data(), call.input(2).data(), call.scalar(3)));
}

Value map_delete_elem(HelperCall& call) { return errno_result(call.map(0).delete_elem(call.input(1).data())); }

// Calls back with (map, key, value, context) until the callback returns other than 0; the result is how many were
// visited.
Value for_each_map_elem(HelperCall& call) {
    if (call.scalar(3) != 0) return errno_result(-EINVAL);
    ProcessMap& map = call.map(0);
    const std::span<std::byte> key = call.interpreter().key_buffer(map.definition().key_size);
    std::uint64_t position = 0;
    std::uint64_t visited = 0;
    while (std::byte* const value = map.next(position, key.data())) {
        const std::array arguments{
            call.value(0),
            Value::region(Kind::map_value, reinterpret_cast<std::uint64_t>(key.data()), key.size(), true),
            Value::region(Kind::map_value, reinterpret_cast<std::uint64_t>(value), map.definition().value_size),
            call.value(2)};
        ++visited;
        if (call.interpreter().call_back(call.callback(1), arguments) != 0) break;
    }
    std::ranges::fill(key, std::byte{0});  // a pointer to it may be left
    return Value::scalar(visited);
}

// Calls back with (index, context) until the callback returns other than 0; the result is how many rounds were made.
Value loop(HelperCall& call) {
    constexpr std::uint64_t k_max_rounds = 1U << 23;
    const std::uint64_t rounds = call.scalar(0);
    if (call.scalar(3) != 0) return errno_result(-EINVAL);
    if (rounds > k_max_rounds) return errno_result(-E2BIG);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        const std::array arguments{Value::scalar(round), call.value(2)};
        if (call.interpreter().call_back(call.callback(1), arguments) != 0) return Value::scalar(round + 1);
    }
    return Value::scalar(rounds);
}

}  // namespace harena::bpf::helpers
