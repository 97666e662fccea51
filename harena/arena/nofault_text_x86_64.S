// SPDX-License-Identifier: Apache-2.0
//
// The routines behind nofault.hpp. rdi: address, rsi: operand (cmpxchg: expected), rdx: desired.
// Result: rax the value, rdx whether it faulted. None of them uses the stack, so that one fix-up serves for all: it finds
// the return address on top.

    .text
    .balign 64
    .globl  harena_nofault_begin
    .hidden harena_nofault_begin
harena_nofault_begin:

.macro routine name
    .balign 16
    .globl  harena_nofault_\name
    .hidden harena_nofault_\name
    .type   harena_nofault_\name, @function
harena_nofault_\name:
.endm

.macro success
    xor     %edx, %edx
    ret
.endm

// Plain x86 loads acquire and plain stores release.
routine load_1
    movzbl  (%rdi), %eax
    success
routine load_2
    movzwl  (%rdi), %eax
    success
routine load_4
    movl    (%rdi), %eax
    success
routine load_8
    movq    (%rdi), %rax
    success

routine store_1
    movb    %sil, (%rdi)
    success
routine store_2
    movw    %si, (%rdi)
    success
routine store_4
    movl    %esi, (%rdi)
    success
routine store_8
    movq    %rsi, (%rdi)
    success

.macro plain_atomic op
routine \op\()_4
    lock \op\()l %esi, (%rdi)
    success
routine \op\()_8
    lock \op\()q %rsi, (%rdi)
    success
.endm
    plain_atomic add
    plain_atomic or
    plain_atomic and
    plain_atomic xor

routine fetch_add_4
    movl    %esi, %eax
    lock xaddl %eax, (%rdi)
    success
routine fetch_add_8
    movq    %rsi, %rax
    lock xaddq %rax, (%rdi)
    success

routine exchange_4
    movl    %esi, %eax
    xchgl   %eax, (%rdi)
    success
routine exchange_8
    movq    %rsi, %rax
    xchgq   %rax, (%rdi)
    success

.macro fetch_by_compare op
routine fetch_\op\()_4
    movl    (%rdi), %eax
1:  movl    %eax, %ecx
    \op\()l %esi, %ecx
    lock cmpxchgl %ecx, (%rdi)
    jne     1b
    movl    %eax, %eax
    success
routine fetch_\op\()_8
    movq    (%rdi), %rax
1:  movq    %rax, %rcx
    \op\()q %rsi, %rcx
    lock cmpxchgq %rcx, (%rdi)
    jne     1b
    success
.endm
    fetch_by_compare or
    fetch_by_compare and
    fetch_by_compare xor

// The old value is zero-extended also where eax matched and cmpxchg left it alone.
routine compare_exchange_4
    movl    %esi, %eax
    lock cmpxchgl %edx, (%rdi)
    movl    %eax, %eax
    success
routine compare_exchange_8
    movq    %rsi, %rax
    lock cmpxchgq %rdx, (%rdi)
    success

    .globl  harena_nofault_end
    .hidden harena_nofault_end
harena_nofault_end:

routine fixup
    xorl    %eax, %eax
    movl    $1, %edx
    ret

    .section .note.GNU-stack, "", @progbits
