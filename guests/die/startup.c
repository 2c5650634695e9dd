/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * INIT and SIPI between all processors, without end: each is started by others, does the same to them, and is
 * stopped by them in the middle of it. storm.c has the same from one processor, as far as it comes to an end.
 *
 * run: each-other => runs vcpus=3 seconds=1
 * run: each-other => runs vcpus=4 seconds=1
 * run: init-alone => runs vcpus=4 seconds=1
 * run: sipi-alone => runs vcpus=4 seconds=1
 * run: halted => runs vcpus=3 seconds=1
 * run: everybody => any vcpus=3 seconds=2
 * run: nowhere => any vcpus=3 seconds=2
 */
#include "guests/die/die.h"

enum { INIT = 0x4500, SIPI = 0x4600, OTHERS = 0xC0000, NMI = 0x400, PAGE = 8 };

extern const uint8_t again_code[], again_code_end[];

/* In real mode at PAGE, on no stack: an INIT and a SIPI to another one by its local APIC, in a loop. Unreal mode, as
 * 64-bit code would take a processor too long to get to. EBP counts whom; EBX, from CPUID, is who it is. */
__asm__(".pushsection .rodata\n"
        "    .code16\n"
        "again_code:\n"
        "    cli\n"
        "    xor %ax, %ax\n"
        "    mov %ax, %ds\n"
        "    lgdtl 0x8000 + again_gdt - again_code\n"
        "    mov %cr0, %eax\n"
        "    or $1, %al\n"
        "    mov %eax, %cr0\n"
        "    mov $0x10, %ax\n"
        "    mov %ax, %ds\n" /* flat, and stays so */
        "    mov %cr0, %eax\n"
        "    and $0xFE, %al\n"
        "    mov %eax, %cr0\n"
        "    mov $1, %eax\n"
        "    cpuid\n"
        "    shr $24, %ebx\n"
        "    mov $0xFEE00300, %esi\n" /* the ICR */
        "    lock incl (0x7000)\n"
        "1:  inc %ebp\n"
        "    mov %ebp, %eax\n"
        "    xor %edx, %edx\n"
        "    movl (0x7004), %ecx\n" /* how many others */
        "    div %ecx\n"
        "    inc %edx\n"
        "    cmp %edx, %ebx\n"
        "    je 1b\n"
        "    shl $24, %edx\n"
        "    mov %edx, 0x10(%esi)\n"
        "    movl $0x4500, (%esi)\n"
        "    mov %edx, 0x10(%esi)\n"
        "    movl $0x4608, (%esi)\n"
        "    jmp 1b\n"
        "    .balign 8\n"
        "again_gdt:\n"
        "    .word 63\n"
        "    .long guest_gdt\n"
        "again_code_end:\n"
        "    .code64\n"
        ".popsection\n");

static volatile uint32_t *const starts = ptr(0x7000), *const others = ptr(0x7004);

static void put_code(void)
{
    volatile uint8_t *to = ptr(PAGE << 12);

    for (const uint8_t *p = again_code; p < again_code_end; p++)
        *to++ = *p;
    *starts = 0;
    *others = smp_count() - 1;
    apic_enable();
}

static void start_all(void)
{
    apic_send(0, OTHERS | INIT);
    apic_send(0, OTHERS | SIPI | PAGE);
}

/* All that are started stop and start each other; this one sees to it that there is one. */
static void each_other(void)
{
    put_code();
    for (;;) {
        unsigned int before = *starts;

        start_all();
        for (unsigned int k = 0; k < 100000000 && *starts - before < 100; k++)
            pause();
        if (*starts == before)
            guest_die("nobody has started");
    }
}

static void init_alone(void)
{
    put_code();
    start_all();
    for (;;)
        apic_send(0, OTHERS | INIT);
}

static void sipi_alone(void)
{
    put_code();
    start_all();
    for (;;)
        apic_send(0, OTHERS | SIPI | PAGE);
}

/* While the boot processor is not there to help. */
static void halted(void)
{
    put_code();
    start_all();
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* The boot processor as well: it goes to where the firmware would be. */
static void everybody(void)
{
    put_code();
    start_all();
    for (unsigned int k = 0; k < 1000; k++)
        pause();
    apic_send(0, INIT);
    for (;;)
        pause();
}

/* To pages where no code is: below 1 MiB everything, ROM and screen, too; with NMIs in between. */
static void nowhere(void)
{
    apic_enable();
    for (uint32_t k = 0;; k++) {
        apic_send(1 + k % 2, INIT);
        apic_send(1 + k % 2, SIPI | (k & 0xFF));
        if (k & 1)
            apic_send(1 + k % 2, NMI);
    }
}

static const struct die_mode modes[] = {
    {"each-other", each_other}, {"init-alone", init_alone}, {"sipi-alone", sipi_alone},
    {"halted", halted},         {"everybody", everybody},   {"nowhere", nowhere},
};

DIE_MAIN(modes)
