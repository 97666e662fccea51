// SPDX-License-Identifier: Apache-2.0
#include "harena/bpf/helper_call.hpp"
#include "harena/bpf/helpers.hpp"

namespace harena::bpf::helpers {

Value arena_alloc_pages(HelperCall& call) {
    const auto count = static_cast<std::uint32_t>(call.scalar(2));
    const auto node = static_cast<std::int32_t>(static_cast<std::uint32_t>(call.scalar(3)));
    return Value::scalar(call.image().arena->kfunc_alloc_pages_for(call.image().payer, call.scalar(1), count, node,
                                                                   call.scalar(4), &call.interpreter().cancel()));
}

Value arena_free_pages(HelperCall& call) {
    call.image().arena->kfunc_free_pages(call.scalar(1), static_cast<std::uint32_t>(call.scalar(2)),
                                         &call.interpreter().cancel());
    return {};
}

Value arena_reserve_pages(HelperCall& call) {
    const int result =
        call.image().arena->kfunc_reserve_pages(call.scalar(1), static_cast<std::uint32_t>(call.scalar(2)));
    return Value::scalar(static_cast<std::uint64_t>(std::int64_t{result}));
}

}  // namespace harena::bpf::helpers
