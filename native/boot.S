/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * From GRUB to C. Multiboot 2, section 3.3: EAX has the magic number, EBX the physical address of the boot
 * information; protected mode with flat 32-bit segments, no paging, interrupts off; no stack. It is the same in BIOS
 * and in UEFI mode, since we do not ask for boot services: GRUB has ended them.
 *
 * GRUB may have moved us, so until paging is on everything is addressed from EBP, the physical address of the image's
 * first byte. The first page tables map what fits for as long as paging.c has not made ours: the lower 4 GiB of
 * physical memory, at 0 and in the direct map, and the image at its virtual address.
 */
#include "native/layout.h"

#define OFFSET(symbol) (symbol - LAYOUT_IMAGE)
#define MB2_MAGIC      0xE85250D6
#define MB2_BOOTED     0x36D76289

    .section .boot, "ax"
    .balign 8
boot_header: /* Multiboot 2, section 3.1 */
    .long MB2_MAGIC, 0, boot_header_end - boot_header, -(MB2_MAGIC + (boot_header_end - boot_header))
    .balign 8 /* what we want to be told, if there: command line, modules, memory map, frame buffer, RSDP, EFI's map */
1:  .word 1, 1
    .long 2f - 1b, 1, 3, 6, 8, 14, 15, 17
2:  .balign 8 /* a text screen will do */
    .word 4, 1
    .long 12, 2
    .balign 8 /* as will a frame buffer of 32 bits a pixel, whatever its size */
    .word 5, 1
    .long 20, 0, 0, 32
    .balign 8 /* modules on page boundaries */
    .word 6, 1
    .long 8
    .balign 8 /* relocatable: lowest and highest address, alignment, as low as can be */
    .word 10, 0
    .long 24, 0x200000, 0xFFFFFFFF, 0x200000, 1
    .balign 8
    .word 0, 0
    .long 8
boot_header_end:

    .code32
    .globl boot_entry
boot_entry:
    cli
    cld
    /* A stack of one word, to find out where we are: the second word of the boot information is reserved. */
    lea 8(%ebx), %esp
    call 1f
1:  pop %ebp
    sub $(1b - boot_header), %ebp
    lea OFFSET(boot_stack_end)(%ebp), %esp
    lea boot_no_loader - boot_header(%ebp), %esi
    cmp $MB2_BOOTED, %eax
    jne boot_refuse
    mov %ebx, %edi

    lea boot_no_long_mode - boot_header(%ebp), %esi
    mov $0x80000000, %eax
    cpuid
    cmp $0x80000001, %eax
    jb boot_refuse
    mov $0x80000001, %eax
    cpuid
    and $(1 << 29 | 1 << 20), %edx /* long mode, no-execute pages */
    cmp $(1 << 29 | 1 << 20), %edx
    jne boot_refuse

    /* Four tables of 2 MiB pages: 4 GiB. */
    lea OFFSET(boot_low)(%ebp), %ebx
    mov $0x83, %eax
    xor %ecx, %ecx
1:  mov %eax, (%ebx, %ecx, 8)
    add $0x200000, %eax
    inc %ecx
    cmp $(4 * 512), %ecx
    jne 1b
    /* The page above them: the tables, then the same for both halves. */
    lea OFFSET(boot_low) + 3(%ebp), %eax
    lea OFFSET(boot_pdpt_low)(%ebp), %ebx
    xor %ecx, %ecx
1:  mov %eax, (%ebx, %ecx, 8)
    add $0x1000, %eax
    inc %ecx
    cmp $4, %ecx
    jne 1b
    lea OFFSET(boot_pml4)(%ebp), %ecx
    lea 3(%ebx), %eax
    mov %eax, (%ecx)
    mov %eax, 8 * (LAYOUT_DIRECT >> 39 & 511)(%ecx)
    /* The image. */
    lea OFFSET(boot_pdpt_high) + 3(%ebp), %eax
    mov %eax, 8 * (LAYOUT_IMAGE >> 39 & 511)(%ecx)
    lea OFFSET(boot_image) + 3(%ebp), %eax
    mov %eax, OFFSET(boot_pdpt_high) + 8 * (LAYOUT_IMAGE >> 30 & 511)(%ebp)
    lea OFFSET(boot_image)(%ebp), %ebx
    lea 0x83(%ebp), %eax
    xor %edx, %edx
1:  mov %eax, (%ebx, %edx, 8)
    add $0x200000, %eax
    inc %edx
    cmp $(LAYOUT_IMAGE_MAX >> 21), %edx
    jne 1b

    mov %ecx, %cr3
    mov %cr4, %eax
    or $(1 << 5), %eax /* PAE */
    mov %eax, %cr4
    mov $0xC0000080, %ecx /* EFER: LME, NXE */
    rdmsr
    or $(1 << 8 | 1 << 11), %eax
    wrmsr
    mov $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    mov %eax, %cr0

    lea boot_gdt - boot_header(%ebp), %eax
    push %eax
    pushw $(boot_gdt_end - boot_gdt - 1)
    lgdt (%esp)
    lea boot_long - boot_header(%ebp), %eax
    push $SELECTOR_CODE
    push %eax
    lret

    .code64
boot_long: /* EDI: boot information; EBP: where we are */
    mov $boot_high, %rax
    jmp *%rax
boot_high:
    lgdt boot_gdt_pointer
    mov $SELECTOR_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $boot_stack_end, %rsp
    mov %edi, %edi
    mov %ebp, %esi
    xor %ebp, %ebp
    push %rbp /* where a backtrace ends */
    call native_main /* (boot information, image), both physical; does not return */
    ud2

    .code32
boot_refuse: /* ESI: what to say on COM1, as the loader left it, with a bound; then for ever nothing */
    mov $0x3F8 + 5, %edx
    mov $100000, %ecx
1:  in %dx, %al
    test $0x20, %al
    loopz 1b
    mov $0x3F8, %edx
    lodsb
    test %al, %al
    jz 2f
    out %al, %dx
    jmp boot_refuse
2:  hlt
    jmp 2b
boot_no_loader:
    .asciz "Lodge: not started by a Multiboot 2 loader\r\n"
boot_no_long_mode:
    .asciz "Lodge: this processor has no 64-bit mode or no NX pages\r\n"

    .balign 8
    .globl boot_gdt
boot_gdt: /* flat code and data; code of 32 bits for trampoline.S (SDM 3A, 3.4.5) */
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss
    .balign 4096
boot_low:
    .skip 4 * 4096
boot_pml4:
    .skip 4096
boot_pdpt_low:
    .skip 4096
boot_pdpt_high:
    .skip 4096
boot_image:
    .skip 4096
    .skip 32768
boot_stack_end:

    .section .note.GNU-stack, "", @progbits
