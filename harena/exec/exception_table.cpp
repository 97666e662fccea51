// SPDX-License-Identifier: Apache-2.0
#include "harena/exec/exception_table.hpp"

#include "harena/base/immortal.hpp"

namespace harena {

namespace {
constinit Immortal<ExceptionTable> table;
}  // namespace

ExceptionTable& ExceptionTable::instance() noexcept { return table.value; }

std::uintptr_t ExceptionTable::find_fixup(std::uintptr_t instruction) const noexcept {
    const auto range = ranges_.find_if(
        [instruction](const ExceptionRange& r) { return r.begin <= instruction && instruction < r.end; });
    return range ? range->fixup : 0;
}

}  // namespace harena
