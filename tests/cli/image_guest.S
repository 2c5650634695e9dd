/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * In Lodge's place in an image: an ELF64 file with a Multiboot 2 header, that says on COM1 what GRUB gave it, one line
 * for each module, and ends QEMU through its isa-debug-exit port 0xF4:
 *
 *     module SIZE SUM COMMAND-LINE     SIZE and the sum of all bytes (32 bits) in hexadecimal
 *     end
 *
 * Multiboot 2 specification 1.6: 3.1 (header), 3.3 (state: 32-bit, flat, EBX information), 3.6.6 (modules).
 */
    .set MAGIC, 0xE85250D6
    .section .text, "ax"
    .code32
    .balign 8
header:
    .long MAGIC, 0, end_of_header - header, -(MAGIC + (end_of_header - header))
    .short 0, 0
    .long 8
end_of_header:

    .globl _start
_start:
    movl $stack_top, %esp
    cmpl $0x36D76289, %eax
    jne finish
    leal 8(%ebx), %esi /* the first tag */
next_tag:
    cmpl $0, (%esi)
    je finish
    cmpl $3, (%esi)
    jne skip_tag
    call say_module
skip_tag:
    movl 4(%esi), %eax
    addl $7, %eax
    andl $~7, %eax
    addl %eax, %esi
    jmp next_tag
finish:
    movl $text_end, %edi
    call say
    movb $0, %al
    outb %al, $0xF4
halt:
    cli
    hlt
    jmp halt

/* ESI: the tag */
say_module:
    movl $text_module, %edi
    call say
    movl 12(%esi), %eax
    subl 8(%esi), %eax
    call say_hex
    xorl %eax, %eax
    movl 8(%esi), %edi
sum:
    cmpl 12(%esi), %edi
    jae summed
    movzbl (%edi), %ecx
    addl %ecx, %eax
    incl %edi
    jmp sum
summed:
    call say_hex
    leal 16(%esi), %edi
    call say
    movl $text_line, %edi
    jmp say

/* EAX, and a space. */
say_hex:
    movl %eax, %ebp
    movl $8, %ecx
digit:
    roll $4, %ebp
    movl %ebp, %eax
    andl $15, %eax
    movb digits(%eax), %al
    call put
    loop digit
    movb $' ', %al
    jmp put

/* EDI: text that ends with 0. */
say:
    movb (%edi), %al
    testb %al, %al
    jz said
    call put
    incl %edi
    jmp say
said:
    ret

put:
    movb %al, %ah
    movw $0x3FD, %dx
wait:
    inb %dx, %al
    testb $0x20, %al
    jz wait
    movw $0x3F8, %dx
    movb %ah, %al
    outb %al, %dx
    ret

text_module: .asciz "module "
text_line:   .asciz "\n"
text_end:    .asciz "end\n"
digits:      .ascii "0123456789abcdef"

    .section .bss, "aw", @nobits
    .skip 4096
stack_top:
