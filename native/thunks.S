/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the compiler puts in place of an indirect branch to a register (-mindirect-branch=thunk-extern): a retpoline
 * (Intel, "Retpoline: A Branch Target Injection Mitigation"). The processor's prediction of the RET is where the CALL
 * left it, and that loops; the RET itself goes where the register says. In the order of register numbers, 32 bytes
 * each: speculation.c may write a plain jump over each.
 */
    .macro thunk reg
    .balign 32, 0xCC
    .globl __x86_indirect_thunk_\reg
    .type __x86_indirect_thunk_\reg, @function
__x86_indirect_thunk_\reg:
    call 2f
1:  pause
    lfence
    jmp 1b
2:  mov %\reg, (%rsp)
    ret
    .size __x86_indirect_thunk_\reg, . - __x86_indirect_thunk_\reg
    .endm

    .text
    .balign 64, 0xCC
    .globl thunks
thunks:
    .irp reg, rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    thunk \reg
    .endr
    .balign 32, 0xCC
    .section .note.GNU-stack, "", @progbits
