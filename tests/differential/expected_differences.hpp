// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace harena::bpf::differential {

/// Where the engine of the process deliberately does not do what a kernel does. A difference that no entry covers fails
/// the tests; so does an entry that covers nothing on a kernel that it is for.
///
/// Regular expressions (ECMAScript) that must match somewhere in the name of the case and in the difference, as
/// `compare` words it.
struct ExpectedDifference {
    std::string_view set;  // "generated" stands for all of these; an entry for those need not cover anything
    std::string_view case_name;
    std::string_view difference;
    int until;  // first kernel that is as we are: 7.3 is 703; 9999 if it is to stay so
    std::string_view reason;
};

inline constexpr int k_stays = 9999;

inline constexpr std::array k_expected_differences{
    // --- allocation --------------------------------------------------------------------------------------------------
    ExpectedDifference{
        "calls", "^alloc: ties, ", "^(word [35]: |page [17]: )", k_stays,
        "Of several smallest sufficient ranges, which one is taken is unspecified: Linux takes one of the "
        "middle of its tree, we take the lowest."},
    ExpectedDifference{
        "calls", "^free: NULL with garbage, (low bits|window's end)$", "^word 1: process 0x0, kernel ", 703,
        "6.18 wraps around where a freed range begins below an arena, and hands out addresses outside of it "
        "later. In 7.3, as here, such a call does nothing."},
    ExpectedDifference{"calls", "^free: from the end, window's end$", "^word 1: process 0x0, kernel ", 703,
                       "As above: behind the end of the window is 0, which is below."},
    ExpectedDifference{"calls", "^free: below, (low bits|window's end)$",
                       "^(word 1: process 0x0, kernel |page [01]: process only)", 703,
                       "As above. In 6.18 the second call, of three pages, frees two of the arena's."},
    // --- faults ------------------------------------------------------------------------------------------------------
    ExpectedDifference{
        "accesses", "^load-acquire .*(absent|behind|below|above|window)", "^word [12]: ", 703,
        "6.18 takes a faulting load-acquire for a store: its register keeps its value. 7.3 sets it to 0."},
    ExpectedDifference{
        "accesses", "^atomic (fetch add|xchg|cmpxchg) .*(absent|behind|below|above|window)", "^word [01]: ", 703,
        "6.18 leaves the fetch register of a faulting atomic (r0 of a cmpxchg) as it was. 7.3 sets it to 0."},
    ExpectedDifference{
        "accesses", "straddling", "^straddle ", k_stays,
        "The kernel engine learns of faults by the page fault's address, that of the first absent byte; ours "
        "is that of the access."},
    ExpectedDifference{"generated", "", "^straddle ", k_stays, "As above."},
    // --- instructions ------------------------------------------------------------------------------------------------
    ExpectedDifference{"accesses", "^atomic fetch (and|or|xor) ",
                       "^load: kernel .*BPF_ATOMIC stores into R8 arena is not allowed", k_stays,
                       "On x86, Linux has no code for these that can fault. Here they work."},
    ExpectedDifference{
        "accesses", "^atomic cmpxchg 4: cmpxchg that matches", "^word 0: ", k_stays,
        "A 32-bit cmpxchg on arena memory that matches leaves the upper half of r0 in Linux: the verifier's "
        "zero extension does not know the form that the instruction has in an arena. Here it is always 0, as "
        "for other memory."},
    // --- what its verifier refuses -----------------------------------------------------------------------------------
    ExpectedDifference{"objects", "^callbacks(_v1|_v3|_o0)? ", "^load: kernel .*callback function not static", k_stays,
                       "Linux takes static functions as callbacks only."},
    ExpectedDifference{"objects", "^arguments of_global_function$", "^load: kernel .*R1 type=scalar expected=fp", 703,
                       "6.18 takes arena pointers as arguments of global functions with the tag arg:arena only."},
    ExpectedDifference{"objects", "^engine count$", "^load: kernel .*doesn't return scalar", k_stays,
                       "6.18 takes no global functions without a result."},
    ExpectedDifference{"objects", "^engine jump$", "^load: kernel .*Sleepable programs can only use", k_stays,
                       "Programs of type syscall are sleepable in Linux, and those cannot make tail calls."},
    ExpectedDifference{"objects", "^(engine endless|loops )", "^load: kernel .*infinite loop detected", k_stays,
                       "Linux refuses a loop without may_goto that does not end; here the budget ends the run."},
    ExpectedDifference{"objects", "^context read_stack$", "^load: kernel .*invalid unbounded variable-offset", k_stays,
                       "Linux wants the proof that the interpreter makes at run time."},
    ExpectedDifference{"generated", "", "^load: kernel .*(too complex|too large)", k_stays,
                       "The verifier gives up on programs with too many paths."},
};

/// Cases that both engines refuse to load, with the same errno, besides those that are made to be refused
/// (`Case::refusal`).
struct JointRefusal {
    std::string_view set;
    std::string_view case_name;
    std::string_view reason;
};

inline constexpr std::array k_joint_refusals{
    JointRefusal{"objects", "^maps target_(zero|two)$", "It has an LRU_HASH, which neither engine has."},
    JointRefusal{"objects", "^externs use_all$", "It calls a strong kfunc that is nowhere."},
    JointRefusal{"objects", "^globals touch_all$", "It has globals for an arena, and no arena."},
};

/// How many cases of a set must have run in both engines, none of them with an error.
struct Minimum {
    std::string_view set;
    std::size_t cases;
};

inline constexpr std::array k_minima{
    Minimum{"objects", 29}, Minimum{"creation", 4},     Minimum{"calls", 265},     Minimum{"accesses", 925},
    Minimum{"casts", 44},   Minimum{"arithmetic", 660}, Minimum{"generated", 590},
};

}  // namespace harena::bpf::differential
