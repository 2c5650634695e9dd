/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Start of 32-bit guests, through Multiboot: flat protected mode without paging; entries of all
 * vectors; guest_try.
 */
#include "guests/lib/entry.inc"

#define MULTIBOOT_MAGIC 0x1BADB002
#define STACK_SIZE 16384

    .section .boot, "ax"
    .align 4
    .long MULTIBOOT_MAGIC, 0, -MULTIBOOT_MAGIC
    .global guest_start
guest_start:
    note_entry_32
    cld
    mov %ebx, guest_boot_info
    mov $guest_stack_end, %esp
    lgdt gdt_pointer
    ljmp $0x18, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    xor %ebp, %ebp
    call guest_init
    call main
    push %eax
    call guest_exit

    .align 8
gdt_pointer:
    .word 64 * 8 - 1
    .long guest_gdt

    .text
    .global guest_vectors
    .align 16
guest_vectors:
    .set vector, 0
    .rept 256
    .align 16
    .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17
    push $0
    .endif
    push $vector
    jmp common
    .set vector, vector + 1
    .endr

common:
    pusha
    push %ds
    push %es
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    cld
    lea 8(%esp), %eax
    mov %esp, %ebx
    and $-16, %esp
    sub $12, %esp
    push %eax
    call guest_dispatch
    mov %ebx, %esp
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

    .global guest_try, guest_try_user, guest_try_recover, guest_resume
guest_try:
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushf
    mov 24(%esp), %eax
    mov 28(%esp), %ecx
    mov %esp, guest_try_rsp
    movl $1, guest_try_active
    sub $8, %esp
    push %ecx
    call *%eax
    mov guest_try_rsp, %esp
    mov $-1, %eax
guest_try_recover:
    movl $0, guest_try_active
    popf
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

/* guest_resume(vector): leaves an exception handler for guest_try's caller, whatever the frame. */
guest_resume:
    mov 4(%esp), %eax
    mov $0x10, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    mov %ecx, %ss
    mov guest_try_rsp, %esp
    jmp guest_try_recover

guest_try_user:
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushf
    mov 24(%esp), %eax
    mov 28(%esp), %ecx
    mov %esp, guest_try_rsp
    movl $1, guest_try_active
    mov $(guest_user_stack_end - 16), %edx
    mov %ecx, 4(%edx)
    movl $user_leave, (%edx)
    mov $0x3B, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    push $0x3B
    push %edx
    pushf
    push $0x33
    push %eax
    iret
user_leave:
    int $0x81

    .bss
    .align 4096
    .global guest_user_stack, guest_user_stack_end
guest_user_stack: .skip STACK_SIZE
guest_user_stack_end:
guest_stack: .skip STACK_SIZE
guest_stack_end:
    .global guest_interrupt_stack_end
    .skip STACK_SIZE
guest_interrupt_stack_end:
    .align 8
    .global guest_try_rsp, guest_try_active, guest_boot_info
guest_try_rsp: .long 0
guest_try_active: .long 0
guest_boot_info: .long 0
    entry_room

    .section .note.GNU-stack, "", @progbits
