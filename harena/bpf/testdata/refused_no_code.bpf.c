// SPDX-License-Identifier: Apache-2.0
// Nothing to run.
#include "harena/bpf/testdata/test_macros.bpf.h"

int lonely = 1;
