/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Into the guest and back: int vmx_enter(uint64_t gpr[16], uint32_t flags, uint64_t *host_rsp).
 *
 * gpr[] is in the order of register numbers (isa/x86.h); RSP is the VMCS's. On the stack, while the guest runs,
 * lie the callee-saved registers, the flags and gpr; VMCS_HOST_RSP points there, and is written only when it
 * differs from what *host_rsp says it is. VMCS_HOST_RIP is vmx_exit_point.
 *
 * A failed VMLAUNCH or VMRESUME falls through to the next instruction: CF says VMfailInvalid, ZF VMfailValid (SDM 3C
 * 31.2). Guest registers are loaded then, none is lost since gpr[] still has them.
 *
 * After an exit every general register that still holds the guest's value is cleared: what we speculate is not
 * to begin with numbers of the guest's choice. VERW comes before the guest's registers are loaded, after which
 * nothing of ours is read. Vector registers stay (fpu.c).
 */
#include "engine/stuff_rsb.h"

#define HOST_RSP 0x6C14 /* VMCS_HOST_RSP */
#define RESUME     1
#define VERW       2
#define STUFF      4

    .text
    .globl vmx_enter, vmx_exit_point
    .type vmx_enter, @function
    .p2align 4
vmx_enter:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    push %rsi
    push %rdi
    cmp %rsp, (%rdx)
    je 1f
    mov $HOST_RSP, %eax
    vmwrite %rsp, %rax
    mov %rsp, (%rdx)
1:  test $VERW, %esi
    jz 2f
    mov %ss, 8+4(%rsp) /* beside the flags: a selector of writable data in memory */
    verw 8+4(%rsp)
2:  test $RESUME, %esi /* the flag lives through the moves */
    mov 0*8(%rdi), %rax
    mov 1*8(%rdi), %rcx
    mov 2*8(%rdi), %rdx
    mov 3*8(%rdi), %rbx
    mov 5*8(%rdi), %rbp
    mov 6*8(%rdi), %rsi
    mov 8*8(%rdi), %r8
    mov 9*8(%rdi), %r9
    mov 10*8(%rdi), %r10
    mov 11*8(%rdi), %r11
    mov 12*8(%rdi), %r12
    mov 13*8(%rdi), %r13
    mov 14*8(%rdi), %r14
    mov 15*8(%rdi), %r15
    mov 7*8(%rdi), %rdi
    jz 3f
    vmresume
    jmp 4f
3:  vmlaunch
4:  mov $1, %eax
    jc 5f
    mov $2, %eax
5:  jmp back

    .p2align 4
vmx_exit_point:
    push %rdi
    mov 8(%rsp), %rdi
    mov %rax, 0*8(%rdi)
    mov %rcx, 1*8(%rdi)
    mov %rdx, 2*8(%rdi)
    mov %rbx, 3*8(%rdi)
    mov %rbp, 5*8(%rdi)
    mov %rsi, 6*8(%rdi)
    mov %r8, 8*8(%rdi)
    mov %r9, 9*8(%rdi)
    mov %r10, 10*8(%rdi)
    mov %r11, 11*8(%rdi)
    mov %r12, 12*8(%rdi)
    mov %r13, 13*8(%rdi)
    mov %r14, 14*8(%rdi)
    mov %r15, 15*8(%rdi)
    pop 7*8(%rdi)
    testl $STUFF, 8(%rsp)
    jz 9f
    STUFF_RSB
9:  xor %eax, %eax
back:
    xor %ecx, %ecx
    xor %edx, %edx
    xor %esi, %esi
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r11d, %r11d
    pop %rdi
    pop %rsi
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    xor %edi, %edi
    xor %esi, %esi
    cld
    ret
    .size vmx_enter, . - vmx_enter
    .section .note.GNU-stack, "", @progbits
