/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Ways to die of a triple fault in 32-bit and 16-bit protected mode, real mode and virtual-8086
 * mode; page tables of the old formats that lead nowhere.
 *
 * run: null-idt => triple-fault
 * run: no-stack => triple-fault
 * run: gdt-empty => triple-fault
 * run: idt-hole => triple-fault
 * run: tss-hole => triple-fault
 * run: cs-limit => lives
 * run: sixteen => triple-fault
 * run: real-null-idt => triple-fault
 * run: real-hole => triple-fault
 * run: real-stack => triple-fault
 * run: real-loop => runs seconds=1
 * run: real-reset-vector => any seconds=1
 * run: v86-no-stack => triple-fault
 * run: paging-zero => triple-fault
 * run: paging-hole => any seconds=1
 * run: paging-self => any seconds=1
 * run: paging-apic => any seconds=1
 * run: pae-hole => triple-fault
 * run: pae-garbage => lives
 * run: pae-self => any seconds=1
 * run: jumps => lives
 */
#include "guests/die/die.h"

static void die(void)
{
    guest_print("alive after a fault\n");
    guest_exit(3);
}

static void null_idt(void)
{
    load_idt(NULL, 0);
    __asm__ volatile("int3");
    die();
}

/* A stack segment of one byte, and no task for #DF. */
static void no_stack(void)
{
    guest_gdt[SEL_FREE / 8] = guest_descriptor(0, 0, ATTR_DATA | ATTR_DB);
    __asm__ volatile("mov %0, %%ss; push %%eax" : : "r"(SEL_FREE));
    die();
}

static void gdt_empty(void)
{
    load_gdt(guest_gdt, 0);
    __asm__ volatile("int3");
    die();
}

static void idt_hole(void)
{
    load_idt(ptr((uint32_t)DIE_HOLE), 0x7FF);
    __asm__ volatile("int3");
    die();
}

static void breakpoint(void *p)
{
    (void)p;
    __asm__ volatile("int3");
}

static void tss_hole(void)
{
    guest_gdt[SEL_FREE / 8] = guest_descriptor((uint32_t)DIE_HOLE, 0x67, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(SEL_FREE));
    (void)guest_try_user(breakpoint, NULL);
    die();
}

/* --- code segments --- */

static void far_call(void *selector)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } volatile pointer = {0xFFFFFFFF, (uint16_t)(uintptr_t)selector};
    __asm__ volatile("lcall *(%0)" : : "r"(&pointer) : "memory", "cc");
}

static void cs_limit(void)
{
    guest_gdt[SEL_FREE / 8] = guest_descriptor(0, 0xFFFFF, ATTR_CODE | ATTR_DB);
    DIE_UNLESS(guest_try(far_call, ptr(SEL_FREE)) == X86_GP);
    /* the highest byte of the segment, which is in nothing; the next one wraps */
    DIE_UNLESS(guest_try(far_call, ptr(SEL_CODE32)) != NO_FAULT);
}

static void sixteen(void)
{
    __asm__ volatile(
        "lidt (%0); ljmp %1, $1f\n\t"
        ".pushsection .boot; .code16; 1: mov $5, %%sp; push %%ax; push %%ax; push %%ax\n\t"
        ".code32; .popsection"
        :
        : "r"(guest_gdt), "i"(SEL_CODE16)
        : "memory");
    die();
}

/* --- real mode: code that is copied to 0x7000 --- */

enum { LOW = 0x7000, SCRIPT = 0x7100 };
extern uint8_t to_real[], to_real_end[];
__asm__(".pushsection .text\n"
        "to_real:\n"
        ".code32\n"
        "    ljmp $0x20, $0x7000 + (1f - to_real)\n"
        ".code16\n"
        "1:  mov $0x28, %ax\n"
        "    mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n"
        "    mov %cr0, %eax; and $~1, %al; mov %eax, %cr0\n"
        "    ljmp $0x700, $(2f - to_real)\n"
        "2:  xor %ax, %ax\n"
        "    mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov $0x7000, %sp\n"
        "    ljmp $0x710, $0\n"
        ".code32\n"
        "to_real_end:\n"
        ".popsection");

static void in_real_mode(const char *code, unsigned int size)
{
    volatile uint8_t *to = ptr(SCRIPT);
    for (unsigned int n = 0; n < size; n++)
        to[n] = (uint8_t)code[n];
    to = ptr(LOW);
    for (const uint8_t *p = to_real; p < to_real_end; p++)
        *to++ = *p;
    ((void (*)(void))(uintptr_t)LOW)();
    die();
}

#define REAL(code) in_real_mode(code, sizeof(code) - 1)

static void real_null_idt(void)
{
    load_idt(NULL, 0);
    REAL("\xCC");
}

/* Vectors that are all ones: FFFF:FFFF is beyond what was cached, where more of nothing is. */
static void real_hole(void)
{
    load_idt(ptr((uint32_t)DIE_HOLE), 0x20);
    REAL("\x0F\x0B");
}

/* SP = 1: the frame of any fault crosses the segment's end. */
static void real_stack(void)
{
    load_idt(NULL, 0x3FF);
    REAL("\xBC\x01\x00\x50");
}

static void real_loop(void)
{
    load_idt(NULL, 0x3FF);
    REAL("\xFA\xEB\xFE");
}

/* The reset vector holds nothing: #UD, through vectors that nobody has set. */
static void real_reset_vector(void)
{
    load_idt(NULL, 0x3FF);
    REAL("\xEA\xF0\xFF\x00\xF0");
}

/* --- virtual-8086 mode --- */

static void v86_no_stack(void)
{
    *(volatile uint32_t *)(void *)(guest_tss + 8) =
        SEL_FREE + 0x100; /* SS0: beyond the GDT's use */
    __asm__ volatile("push $0; push $0; push $0; push $0; push $0; push $0x7000\n\t"
                     "push $0x20002; push $0x700; push $0x100; iret");
    die();
}

/* --- paging --- */

static uint8_t root[4096] __attribute__((aligned(4096)));

static void with_root(uint32_t cr3, uint32_t cr4)
{
    write_cr4(cr4);
    write_cr3(cr3);
    write_cr0(read_cr0() | X86_CR0_PG);
    __asm__ volatile("int3");
    die();
}

static void paging_zero(void)
{
    with_root((uint32_t)(uintptr_t)root, 0);
}

/* Entries of 32 bits that are all ones map something: the last page, or 4 MiB. */
static void paging_hole(void)
{
    with_root((uint32_t)DIE_HOLE, X86_CR4_PSE);
}

static void paging_self(void)
{
    for (unsigned int n = 0; n < 1024; n++)
        ((volatile uint32_t *)(void *)root)[n] = (uint32_t)(uintptr_t)root | 7;
    with_root((uint32_t)(uintptr_t)root, 0);
}

static void paging_apic(void)
{
    with_root(LODGE_MMIO_APIC, X86_CR4_PSE);
}

static uint32_t new_cr3;

static void load_pae(void *p)
{
    (void)p;
    write_cr3(new_cr3);
    write_cr4(X86_CR4_PAE);
    write_cr0(read_cr0() | X86_CR0_PG);
    write_cr3(new_cr3);
}

/* PDPTEs that are all ones have reserved bits set: the load itself faults, over and over. */
static void pae_hole(void)
{
    load_idt(NULL, 0);
    new_cr3 = (uint32_t)DIE_HOLE;
    load_pae(NULL);
    die();
}

static void pae_garbage(void)
{
    uint64_t seed = 1;
    new_cr3 = (uint32_t)(uintptr_t)root;
    for (unsigned int n = 0; n < 1000; n++) {
        for (unsigned int i = 0; i < 4; i++)
            ((volatile uint64_t *)(void *)root)[i] = die_random(&seed) | 0x1E7;
        DIE_UNLESS(guest_try(load_pae, NULL) == X86_GP);
    }
}

static void pae_self(void)
{
    for (unsigned int n = 0; n < 512; n++)
        ((volatile uint64_t *)(void *)root)[n] = (uint32_t)(uintptr_t)root | 1;
    with_root((uint32_t)(uintptr_t)root, X86_CR4_PAE);
}

static void jumps(void)
{
    static const uint32_t places[] = {(uint32_t)DIE_HOLE, LODGE_MMIO_ECAM,     LODGE_MMIO_IO_APIC,
                                      LODGE_MMIO_APIC,    LODGE_MMIO_APIC + 5, 0xFFFFFFF0};
    for (unsigned int n = 0; n < sizeof(places) / 4; n++)
        DIE_UNLESS(guest_try(guest_call, ptr(places[n])) == X86_UD);
}

static const struct die_mode modes[] = {
    {"null-idt", null_idt},
    {"no-stack", no_stack},
    {"gdt-empty", gdt_empty},
    {"idt-hole", idt_hole},
    {"tss-hole", tss_hole},
    {"cs-limit", cs_limit},
    {"sixteen", sixteen},
    {"real-null-idt", real_null_idt},
    {"real-hole", real_hole},
    {"real-stack", real_stack},
    {"real-loop", real_loop},
    {"real-reset-vector", real_reset_vector},
    {"v86-no-stack", v86_no_stack},
    {"paging-zero", paging_zero},
    {"paging-hole", paging_hole},
    {"paging-self", paging_self},
    {"paging-apic", paging_apic},
    {"pae-hole", pae_hole},
    {"pae-garbage", pae_garbage},
    {"pae-self", pae_self},
    {"jumps", jumps},
};

DIE_MAIN(modes)
