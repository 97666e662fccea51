// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "harena/page/page_account.hpp"

namespace harena {

/// How pages are allocated. By default: zeroed, from any node, charged to nobody.
struct AllocFlags {
    /// Contents are undefined: for a caller that writes all of it.
    bool no_zero = false;
    /// From the list of the calling thread's NUMA node or not at all. The kernel puts memory of that list on that node
    /// as long as it has any there.
    bool this_node = false;
    /// Charged for the pages until they are freed.
    PageAccount* account = nullptr;
};

}  // namespace harena
