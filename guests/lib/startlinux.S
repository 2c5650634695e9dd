/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What makes a 64-bit guest a Linux image ("bzImage", Documentation/arch/x86/boot.rst of the
 * kernel, protocol 2.12): the boot sector and one setup sector with the setup header, then the
 * protected-mode part, whose 64-bit entry is 0x200 behind its start. The entry leaves long mode
 * again and joins start64.S, which needs to know one start only.
 *
 * There is no real-mode code: a loader that runs the setup sector finds a halt.
 */
#include "guests/lib/entry.inc"

#define LOAD          0x100000
#define HEADER_LENGTH 0x62 /* from the magic number: to the end of what 2.12 has */
#define CR0_PG        (1 << 31)

/* The header from setup_sects on. Those fields that a loader must hand on as they are have values
 * that nobody would put there by chance. */
.macro setup_header
    .byte 1                    /* 1F1 setup_sects */
    .word 1                    /* 1F2 root_flags */
    .long guest_linux_syssize  /* 1F4 syssize */
    .word 0x1357               /* 1F8 ram_size */
    .word 0                    /* 1FA vid_mode: the loader's */
    .word 0x0301               /* 1FC root_dev */
    .word 0xAA55               /* 1FE boot_flag */
    .byte 0xEB, HEADER_LENGTH  /* 200 jump */
    .ascii "HdrS"              /* 202 */
    .word 0x020C               /* 206 version */
    .long 0                    /* 208 realmode_swtch */
    .word 0x1000               /* 20C start_sys_seg */
    .word 0                    /* 20E kernel_version */
    .byte 0                    /* 210 type_of_loader: the loader's */
    .byte 1                    /* 211 loadflags: LOADED_HIGH */
    .word 0x8000               /* 212 setup_move_size */
    .long LOAD                 /* 214 code32_start */
    .long 0xDEAD0001           /* 218 ramdisk_image: the loader's */
    .long 0xDEAD0002           /* 21C ramdisk_size: the loader's */
    .long 0                    /* 220 bootsect_kludge */
    .word 0                    /* 224 heap_end_ptr: the loader's */
    .byte 0                    /* 226 ext_loader_ver */
    .byte 0                    /* 227 ext_loader_type */
    .long 0                    /* 228 cmd_line_ptr: the loader's */
    .long 0x02FFFFFF           /* 22C initrd_addr_max: 48 MiB */
    .long 0x00200000           /* 230 kernel_alignment */
    .byte 0                    /* 234 relocatable_kernel */
    .byte 21                   /* 235 min_alignment */
    .word 1                    /* 236 xloadflags: XLF_KERNEL_64 */
    .long 255                  /* 238 cmdline_size */
    .long 0                    /* 23C hardware_subarch */
    .quad 0x0123456789ABCDEF   /* 240 hardware_subarch_data */
    .long 0x2468               /* 248 payload_offset */
    .long 0x1122               /* 24C payload_length */
    .quad 0                    /* 250 setup_data: the loader's */
    .quad LOAD                 /* 258 pref_address */
    .long guest_linux_init_size /* 260 init_size */
.endm

    .section .bzimage_setup, "a"
    .fill 0x1F1, 1, 0xE5 /* nothing before the header is handed on */
    setup_header
    .org 0x400, 0xE5 /* nor behind it */

    .section .rodata
    .global guest_linux_header
guest_linux_header: /* for comparison: the setup sectors are not loaded */
    setup_header

    .section .bzimage, "ax"
    .code32
    cli /* 32-bit entry: not for us */
1:  hlt
    jmp 1b
    .org 0x200, 0x90

    .code64
    mov %rax, guest_started
    mov %rcx, guest_started + 8
    mov %rdx, guest_started + 16
    mov %rbx, guest_started + 24
    mov %rsp, guest_started + 32
    mov %rbp, guest_started + 40
    mov %rsi, guest_started + 48
    mov %rdi, guest_started + 56
    mov %r8, guest_started + 64
    mov %r9, guest_started + 72
    mov %r10, guest_started + 80
    mov %r11, guest_started + 88
    mov %r12, guest_started + 96
    mov %r13, guest_started + 104
    mov %r14, guest_started + 112
    mov %r15, guest_started + 120
    mov $guest_stack_end, %esp
    pushfq
    popq guest_started + ENTRY_RFLAGS
    mov %cr0, %rax
    mov %rax, guest_started + ENTRY_CR0
    mov %cr3, %rax
    mov %rax, guest_started + ENTRY_CR3
    mov %cr4, %rax
    mov %rax, guest_started + ENTRY_CR4
    note_entry_rest
    mov %esi, guest_boot_info

    /* to 32-bit code, then out of long mode by clearing PG */
    lgdt linux_gdt_pointer
    push $0x18
    push $linux_32
    lretq
    .code32
linux_32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %cr0, %eax
    and $~CR0_PG, %eax
    mov %eax, %cr0
    mov $0xC0000080, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    jmp guest_start_noted

    .balign 8
linux_gdt_pointer:
    .word 64 * 8 - 1
    .quad guest_gdt

    .section .note.GNU-stack, "", @progbits
