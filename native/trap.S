/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The 256 entries of the IDT, each of 16 bytes: they make the stack look alike, with an error code and the number of
 * the vector, and meet in one place that saves all general registers (struct trap_frame). The hypervisor runs in ring
 * 0 only, so GS is ours already; there is nothing of the vector unit to save, since it uses none.
 *
 * In a backtrace the frame pointer of the code that was interrupted follows that of trap_dispatch: RBP is not
 * touched.
 */
#include "native/layout.h"

    .text
    .balign 16
    .globl trap_entries
trap_entries:
    vector = 0
    .rept 256
    .balign 16
    /* These push an error code themselves (SDM 3A, table 6-1; AMD APM 2, 8.2): 8, 10-14, 17, 21, 29, 30. */
    .if vector <> 8 && (vector < 10 || vector > 14) && vector <> 17 && vector <> 21 && vector <> 29 && vector <> 30
    push $0
    .endif
    push $vector
    jmp trap_common
    vector = vector + 1
    .endr

    .balign 16
trap_common:
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    sub $8, %rsp
    push %rbx
    push %rdx
    push %rcx
    push %rax
    mov %cr2, %rax
    mov %rax, 4 * 8(%rsp)
    cld
    mov %rsp, %rdi
    sub $8, %rsp /* 5 + 2 + 16 words and this one: a multiple of 16, as the ABI has it */
    call trap_dispatch
    add $8, %rsp
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    add $8, %rsp
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $16, %rsp
    iretq

    .section .note.GNU-stack, "", @progbits
