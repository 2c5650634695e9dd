/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Where a CPU wakes up after a start-up IPI (SDM 3A, 8.4.4): in real mode, at the start of the page that the IPI
 * named, to which smp.c has copied this. CS is the page; everything is addressed from there. The words at the end are
 * for smp.c to fill.
 *
 * A CPU that comes too late, when nobody waits for it any more, must not run on a stack that is another's by then: it
 * takes its turn by changing `claim` from 1 to 2, in one step, or halts here for ever. So the page is never given
 * away.
 */
#include "native/layout.h"

#define WORD(name) (name - trampoline)

    .section .rodata
    .balign 16
    .globl trampoline, trampoline_end, trampoline_words
    .code16
trampoline:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    mov $1, %eax
    mov $2, %ecx
    lock cmpxchg %ecx, WORD(trampoline_words)
    jz 2f
1:  hlt
    jmp 1b
2:  lgdtl WORD(gdt_pointer)
    mov %cr4, %eax
    or $(1 << 5), %eax /* PAE */
    mov %eax, %cr4
    mov WORD(word_cr3), %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx /* EFER: LME, NXE */
    rdmsr
    or $(1 << 8 | 1 << 11), %eax
    wrmsr
    mov WORD(word_long), %ebx
    mov $0x80010033, %eax /* PG, WP, NE, ET, MP, PE: from real mode to 64-bit mode in one step */
    mov %eax, %cr0
    ljmpl *WORD(word_far)

    .code64
long: /* EBX: this instruction */
    mov $SELECTOR_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov word_stack - long(%rbx), %rsp
    mov word_cpu - long(%rbx), %rdi
    mov word_entry - long(%rbx), %rax
    xor %ebp, %ebp
    push %rbp
    jmp *%rax /* as if called: smp.c's function, in the image */

    .balign 8
gdt_pointer: /* the copy's own; its base is filled in */
    .word 3 * 8 - 1
trampoline_gdt_base:
    .long 0
    .balign 8
trampoline_gdt:
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
trampoline_words: /* struct start_words of smp.c */
    .long 0 /* claim */
word_cr3:
    .long 0
word_far:
    .long 0
    .long SELECTOR_CODE
word_long:
    .long 0, 0
word_stack:
    .quad 0
word_cpu:
    .quad 0
word_entry:
    .quad 0
trampoline_end:
    .globl trampoline_gdt, trampoline_gdt_base, trampoline_long
    .set trampoline_long, long

    .text
    .code64
    .globl stack_switch
stack_switch: /* (end, function) */
    mov %rdi, %rsp
    xor %ebp, %ebp
    push %rbp
    jmp *%rsi

    .section .note.GNU-stack, "", @progbits
