/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The switch from thread to thread, and a thread's first steps (thread.c, scheduler.c).
 *
 * A switch is a function call, so only what a function preserves has to be saved: RBX, RBP, R12 to R15 and RSP (System V
 * ABI for AMD64, 3.2.1). Interrupts are off on both sides, the direction flag is clear, segments and control registers
 * are the CPU's, and vector registers are looked after by who uses them (hw_on_switch).
 */
        .text

        /* void thread_switch(uint64_t *save, uint64_t load) */
        .globl  thread_switch
        .type   thread_switch, @function
        .balign 16
thread_switch:
        push    %rbp
        push    %rbx
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, (%rdi)
        mov     %rsi, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbx
        pop     %rbp
        ret
        .size   thread_switch, . - thread_switch

        /* Where the first switch to a thread returns to: RBX is the thread, RBP 0, which ends a backtrace. RSP is a
         * multiple of 16, as it has to be at a call. thread_begin does not return. */
        .globl  thread_entry
        .type   thread_entry, @function
        .balign 16
thread_entry:
        mov     %rbx, %rdi
        call    thread_begin
        ud2
        .size   thread_entry, . - thread_entry

        .section .note.GNU-stack, "", @progbits
