/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Into the guest and back (APM 2, 15.5 and 15.6).
 *
 * VMRUN switches what is in the VMCB, and RAX, RSP, RIP, RFLAGS of the host by itself; VMLOAD and VMSAVE what is left
 * of the processor's own: FS, GS, TR, LDTR and the MSRs of SYSCALL and SYSENTER. General registers are ours to switch.
 *
 * Interrupts. With GIF clear nothing comes in, neither interrupt nor NMI. RFLAGS.IF of the host says whether physical
 * interrupts end the guest (V_INTR_MASKING), so it is set here, where it lets nothing in yet. What was pending before
 * VMRUN ends the guest at once. After an exit GIF is clear again: the interrupt stays pending until somebody opens for
 * it, an NMI comes in at STGI.
 *
 * No register keeps a value of the guest's when C goes on: code that runs ahead of its checks would have it at hand.
 * VERW comes before the guest's registers are loaded, after which nothing of ours is read; the stack of return addresses
 * is filled before anything can return.
 */
#include "engine/stuff_rsb.h"

#define VERW  1 /* SVM_ENTER_* */
#define STUFF 2

        .text
        .globl  svm_enter
        .type   svm_enter, @function
/* void svm_enter(uint64_t gpr[16], uint64_t vmcb, uint64_t host_vmcb, uint32_t flags) */
svm_enter:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushq   %rcx
        pushq   %rdx
        pushq   %rdi
        movq    %rsi, %rax
        clgi
        sti
        vmload  %rax
        testl   $VERW, %ecx
        jz      1f
        movw    %ss, 20(%rsp) /* beside the flags: a selector of writable data in memory */
        verw    20(%rsp)
1:      movq    0x08(%rdi), %rcx
        movq    0x10(%rdi), %rdx
        movq    0x18(%rdi), %rbx
        movq    0x28(%rdi), %rbp
        movq    0x30(%rdi), %rsi
        movq    0x40(%rdi), %r8
        movq    0x48(%rdi), %r9
        movq    0x50(%rdi), %r10
        movq    0x58(%rdi), %r11
        movq    0x60(%rdi), %r12
        movq    0x68(%rdi), %r13
        movq    0x70(%rdi), %r14
        movq    0x78(%rdi), %r15
        movq    0x38(%rdi), %rdi
        vmrun   %rax
        vmsave  %rax
        pushq   %rdi
        movq    8(%rsp), %rdi
        movq    %rcx, 0x08(%rdi)
        movq    %rdx, 0x10(%rdi)
        movq    %rbx, 0x18(%rdi)
        movq    %rbp, 0x28(%rdi)
        movq    %rsi, 0x30(%rdi)
        movq    %r8, 0x40(%rdi)
        movq    %r9, 0x48(%rdi)
        movq    %r10, 0x50(%rdi)
        movq    %r11, 0x58(%rdi)
        movq    %r12, 0x60(%rdi)
        movq    %r13, 0x68(%rdi)
        movq    %r14, 0x70(%rdi)
        movq    %r15, 0x78(%rdi)
        popq    0x38(%rdi)
        movq    8(%rsp), %rax
        vmload  %rax
        testl   $STUFF, 16(%rsp)
        jz      2f
        STUFF_RSB
2:      cli
        stgi
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        xorl    %esi, %esi
        xorl    %r8d, %r8d
        xorl    %r9d, %r9d
        xorl    %r10d, %r10d
        xorl    %r11d, %r11d
        addq    $24, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret
        .size   svm_enter, . - svm_enter
        .section .note.GNU-stack, "", @progbits
