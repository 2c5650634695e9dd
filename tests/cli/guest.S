/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The guest of the command line tests: a Multiboot 1 kernel that does what it is told by single
 * keys on its serial port, so that one small program serves every way in which a run can go.
 *
 * It begins with "clean" or "dirty": was the word at MARK zero? Then it writes there. A reset must
 * give clean memory, so it says "clean" again. It then says "ready" and reads keys:
 *
 *   o  powers off (ACPI)       r  resets (port 0xCF9)      t  triple fault
 *   x  writes 21 to port 0xF4  s  spins, interrupts off    h  halts, interrupts off
 *   f  prints for ever         u  prints a line without end and an escape sequence, then 't'
 *   m  prints the last byte of the module as "<c>"
 *   k  has kvm-clock in the module's second MiB and prints "<y>" if it is there at once, else "<n>"
 *   n  counts: "<0>", "<1>", ... "<9>", "<0>"
 *   p  fills 4 MiB from 4 MiB on with what each word's address says; q says "<y>" if it is so, else "<n>"
 *   w  fills 4 KiB at 4 MiB with zero
 *   b  waits for the power button, then powers off
 *   d  is deaf: spins without reading for a second or so of instructions, then reads on
 * Anything else comes back as "<c>".
 */
#include "lodge/ports.h"

    .set MAGIC, 0x1BADB002
    .set MSR_KVM_SYSTEM_TIME_NEW, 0x4B564D01
    .set MARK, 0x90000 /* this and the stack: where no module comes to lie */
    .set STACK, 0x80000

    .section .text
    .code32
    .align 4
    .long MAGIC, 0, -MAGIC

    .global _start
_start:
    mov $STACK, %esp
    mov %ebx, information
    mov $clean, %esi
    cmpl $0, MARK
    je 1f
    mov $dirty, %esi
1:  movl $1, MARK
    call print
    mov $ready, %esi
    call print

next:
    call getc
    mov $commands, %esi
1:  cmpb $0, (%esi)
    je echo
    cmpb %al, (%esi)
    je 2f
    add $5, %esi
    jmp 1b
2:  jmp *1(%esi)

commands:
    .macro command key, target
    .byte \key
    .long \target
    .endm
    command 'o', power_off
    command 'r', reset
    command 't', triple_fault
    command 'x', exit_port
    command 's', spin
    command 'h', halt
    command 'f', flood
    command 'u', last_words
    command 'd', deaf
    command 'm', module
    command 'k', clock
    command 'n', count
    command 'p', fill
    command 'q', compare
    command 'w', wipe
    command 'b', button
    .byte 0

module:
    mov information, %ebx
    mov 24(%ebx), %ebx /* Multiboot information: mods_addr; there, mod_start and mod_end */
    mov 4(%ebx), %ebx
    movb -1(%ebx), %al
echo:
    movb %al, echoed + 1
    mov $echoed, %esi
    call print
    jmp next

clock:
    mov information, %ebx
    mov 24(%ebx), %ebx
    mov (%ebx), %ebx
    add $0x100000, %ebx
    lea 1(%ebx), %eax
    xor %edx, %edx
    mov $MSR_KVM_SYSTEM_TIME_NEW, %ecx
    wrmsr
    mov $'n', %al
    cmpl $0, 24(%ebx) /* multiplier of the TSC */
    je echo
    mov $'y', %al
    jmp echo

count:
    mov counter, %al
    incb counter
    cmpb $('9' + 1), counter
    jne echo
    movb $'0', counter
    jmp echo

    .set FILLED, 0x400000
    .set FILLED_END, 0x800000
fill:
    mov $FILLED, %edi
1:  imul $2654435761, %edi, %eax
    mov %eax, (%edi)
    add $4, %edi
    cmp $FILLED_END, %edi
    jne 1b
    mov $'p', %al
    jmp echo

compare:
    mov $FILLED, %edi
1:  imul $2654435761, %edi, %eax
    cmp %eax, (%edi)
    mov $'n', %al
    jne echo
    add $4, %edi
    cmp $FILLED_END, %edi
    jne 1b
    mov $'y', %al
    jmp echo

wipe:
    mov $FILLED, %edi
    mov $1024, %ecx
    xor %eax, %eax
    cld
    rep stosl
    mov $'w', %al
    jmp echo

button:
    mov $LODGE_PORT_ACPI_PM1_EVENT, %dx
1:  in %dx, %ax
    test $0x100, %ax
    je 1b

power_off:
    mov $LODGE_PORT_ACPI_PM1_CONTROL, %dx
    mov $(5 << 10 | 1 << 13), %ax /* SLP_TYP of S5, SLP_EN */
    out %ax, %dx
    jmp spin

reset:
    mov $LODGE_PORT_RESET, %dx
    mov $0x06, %al
    out %al, %dx
    jmp spin

triple_fault:
    lidt no_idt
    int3

exit_port:
    mov $21, %al
    out %al, $LODGE_PORT_EXIT
    jmp spin

last_words:
    mov $words, %esi
    call print
    jmp triple_fault

spin:
    cli
1:  jmp 1b

halt:
    cli
    hlt
    jmp halt

flood:
    mov $filler, %esi
    call print
    jmp flood

deaf:
    mov $20000000, %ecx
1:  loop 1b
    jmp next

/* %esi: text, ended by zero. */
print:
    movb (%esi), %bl
    test %bl, %bl
    je 2f
    mov $(LODGE_PORT_SERIAL + 5), %dx
1:  in %dx, %al
    test $0x20, %al
    je 1b
    mov $LODGE_PORT_SERIAL, %dx
    movb %bl, %al
    out %al, %dx
    inc %esi
    jmp print
2:  ret

/* %al: a key */
getc:
    mov $(LODGE_PORT_SERIAL + 5), %dx
    in %dx, %al
    test $1, %al
    jne 1f
    pause
    jmp getc
1:  mov $LODGE_PORT_SERIAL, %dx
    in %dx, %al
    ret

    .align 8
no_idt:
    .word 0
    .long 0
clean:
    .asciz "clean\r\n"
dirty:
    .asciz "dirty\r\n"
ready:
    .asciz "ready\r\n"
words:
    .ascii "before\r\n"
    .asciz "\033[31mlast words\033[0m"
filler:
    .asciz "0123456789012345678901234567890123456789012345678901234567890\r\n"
echoed:
    .asciz "< >"
counter:
    .byte '0'
    .align 4
information:
    .long 0 /* where Multiboot's is */
