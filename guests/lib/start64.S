/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Start of 64-bit guests: from PVH's 32-bit entry (and Multiboot's, which is the same to us) to
 * long mode; entries of all vectors; guest_try; the other processors' way from SIPI to C.
 */
#include "guests/lib/entry.inc"
#include "include/lodge/ports.h"

#define MULTIBOOT_MAGIC 0x1BADB002
#define CR0_LONG 0x80010033 /* PG WP NE ET MP PE */
#define STACK_SIZE 16384
#define TRAMPOLINE 0x8000
#define MAX_CPUS 16

    .section .note.xen, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long guest_start

    .section .boot, "ax"
    .code32
    .global guest_start, guest_start_noted
guest_start:
    note_entry_32
    mov %ebx, guest_boot_info
/* startlinux.S comes here, with entry and boot information noted. */
guest_start_noted:
    cld
    mov $guest_stack_end, %esp
    /* PDPT with four directories of 2 MiB pages: present, writable, user */
    movl $(guest_pdpt + 7), guest_pml4
    mov $4, %ecx
    mov $(guest_pds + 7), %eax
    mov $guest_pdpt, %edi
1:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 1b
    mov $2048, %ecx
    mov $0x87, %eax
    mov $guest_pds, %edi
2:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 2b
    call enter_long_mode
    ljmp $0x08, $start64

/* CR4, CR3, EFER, CR0, GDT: also for the other processors. Clobbers eax, ecx, edx. */
enter_long_mode:
    mov $0x20, %eax /* PAE */
    mov %eax, %cr4
    mov $guest_pml4, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx
    rdmsr
    or $0x901, %eax /* NXE LME SCE */
    wrmsr
    mov $CR0_LONG, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ret

    .align 8
gdt_pointer:
    .word 64 * 8 - 1
    .long guest_gdt, 0

    .text
    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $guest_stack_end, %esp
    xor %ebp, %ebp
    call guest_init
    call main
    mov %eax, %edi
    call guest_exit

/* --- all vectors --------------------------------------------------------------------------------- */

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
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call guest_dispatch
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

/* --- guest_try ----------------------------------------------------------------------------------- */

    .global guest_try, guest_try_user, guest_try_recover
guest_try:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, guest_try_rsp
    movl $1, guest_try_active
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    mov guest_try_rsp, %rsp /* whatever it did */
    mov $-1, %eax
    /* dispatch comes here with the vector in eax and rsp as it was */
guest_try_recover:
    movl $0, guest_try_active
    mov $0x10, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    mov %ecx, %ss
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

guest_try_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, guest_try_rsp
    movl $1, guest_try_active
    mov %rdi, %rax
    mov %rsi, %rdi
    lea guest_user_stack_end - 8(%rip), %rcx
    movq $user_leave, (%rcx)
    mov $0x3B, %edx
    mov %edx, %ds
    mov %edx, %es
    push $0x3B
    push %rcx
    pushfq
    push $0x43
    push %rax
    iretq
user_leave:
    int $0x81

/* --- other processors: real mode at TRAMPOLINE ---------------------------------------------------- */

    .global smp_trampoline, smp_trampoline_end
    .code16
smp_trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + (trampoline_gdt_pointer - smp_trampoline)
    mov $0x11, %eax
    mov %eax, %cr0
    ljmpl $0x18, $start_ap32
    .align 4
trampoline_gdt_pointer:
    .word 64 * 8 - 1
    .long guest_gdt
smp_trampoline_end:

    .section .boot, "ax"
    .code32
start_ap32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %edi
    lock xadd %edi, smp_next
    mov %edi, %eax
    cmp $MAX_CPUS, %eax
    jae 1f
    imul $STACK_SIZE, %eax
    lea smp_stacks(%eax), %esp /* number n, from 1, has the n-th stack, growing down */
    call enter_long_mode
    ljmp $0x08, $start_ap64
1:  hlt
    jmp 1b

    .text
    .code64
start_ap64:
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov %edi, %edi
    call smp_entered
2:  cli
    hlt
    jmp 2b

    .data
    .align 4
smp_next:
    .long 1

    .bss
    .align 4096
    .global guest_pml4
guest_pml4: .skip 4096
guest_pdpt: .skip 4096
guest_pds:  .skip 4 * 4096
    .global guest_user_stack, guest_user_stack_end
guest_user_stack: .skip STACK_SIZE
guest_user_stack_end:
guest_stack: .skip STACK_SIZE
guest_stack_end:
    .global guest_stack_end, guest_interrupt_stack_end, guest_df_stack_end
    .skip STACK_SIZE
guest_interrupt_stack_end:
    .skip STACK_SIZE
guest_df_stack_end:
smp_stacks: .skip MAX_CPUS * STACK_SIZE
    .align 8
    .global guest_try_rsp, guest_try_active, guest_boot_info
guest_try_rsp: .quad 0
guest_try_active: .long 0
guest_boot_info: .long 0
    entry_room

    .section .note.GNU-stack, "", @progbits
