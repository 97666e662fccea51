// SPDX-License-Identifier: Apache-2.0
// Compiled for the machine that the tests run on: an object that is none of BPF.
int not_for_bpf(void);
int not_for_bpf(void) { return 1; }
