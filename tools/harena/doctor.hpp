// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace harena::tool {

/// `harena doctor`: looks, and changes nothing. Returns the exit status.
int run_doctor(bool json);

}  // namespace harena::tool
