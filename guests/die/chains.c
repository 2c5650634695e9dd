/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Exceptions that come one upon the other, all the ways of SDM 3A, tables 6-4 and 6-5: benign, contributory, page fault,
 * double fault; each the second of each, over and over, and to the end.
 *
 * run: serial => lives
 * run: double => lives
 * run: page-after-contributory => lives
 * run: no-gates => triple-fault
 * run: no-stack-at-all => triple-fault
 * run: short-idt => triple-fault
 * run: undefined-forever => triple-fault
 * run: double-forever => runs seconds=1
 * run: serial-forever => runs vcpus=2 seconds=1
 * run: interrupts-that-fault => runs seconds=1
 */
#include "guests/die/die.h"

extern uint8_t guest_vectors[256][16];

enum { ROUNDS = 3000, ERROR_IDT = 2, VECTOR = 0x50 };
#define NOWHERE UINT64_C(0x7000000000)

static void breakpoint(void *p)
{
    (void)p;
    __asm__ volatile("int3");
}

static void undefined(void *p)
{
    (void)p;
    __asm__ volatile("ud2");
}

static void general(void *p)
{
    (void)p;
    (void)*(volatile uint8_t *)ptr(UINT64_C(1) << 63);
}

/* The gate's code segment is one for data: #GP with its selector when it is delivered. */
static void spoil_selector(uint8_t vector)
{
    guest_set_gate(vector, guest_vectors[vector], 14, 0, 0);
    guest_idt[vector * 2] = (guest_idt[vector * 2] & ~UINT64_C(0xFFFF0000)) | (uint64_t)SEL_DATA << 16;
}

static void take_away(uint8_t vector)
{
    guest_idt[vector * 2] &= ~(UINT64_C(1) << 47);
}

static void set_ist(unsigned int n, uint64_t stack)
{
    for (unsigned int k = 0; k < 8; k++)
        guest_tss[36 + 8 * (n - 1) + k] = (uint8_t)(stack >> 8 * k);
}

/* Benign, then contributory: the second is delivered. */
static void serial(void)
{
    spoil_selector(X86_BP);
    spoil_selector(X86_DB);
    take_away(X86_UD);
    for (unsigned int n = 0; n < ROUNDS; n++) {
        DIE_UNLESS(guest_try(breakpoint, NULL) == X86_GP);
        DIE_UNLESS(guest_fault.error == SEL_DATA);
        DIE_UNLESS(guest_try(undefined, NULL) == X86_NP);
        DIE_UNLESS((guest_fault.error & 7) == (ERROR_IDT | 1));
    }
}

/* Contributory upon contributory, upon page fault: double fault, with a handler of its own stack (guest_init). */
static void twice(void (*first)(void *), void *p)
{
    for (unsigned int n = 0; n < ROUNDS; n++) {
        DIE_UNLESS(guest_try(first, p) == X86_DF);
        DIE_UNLESS(guest_fault.error == 0);
    }
}

static void double_fault(void)
{
    spoil_selector(X86_GP);
    twice(general, NULL);
    guest_reset_gate(X86_GP);
    take_away(X86_PF);
    twice(guest_load8, ptr(NOWHERE));
    guest_set_gate(X86_PF, guest_vectors[X86_PF], 14, 0, 2);
    set_ist(2, NOWHERE);
    twice(guest_load8, ptr(NOWHERE + 0x1000));
}

/* Contributory, then page fault, for the stack that is not there: the second is delivered. */
static void page_after_contributory(void)
{
    guest_set_gate(X86_GP, guest_vectors[X86_GP], 14, 0, 2);
    set_ist(2, NOWHERE);
    for (unsigned int n = 0; n < ROUNDS; n++) {
        DIE_UNLESS(guest_try(general, NULL) == X86_PF);
        DIE_UNLESS((guest_fault.cr2 & ~UINT64_C(0xFFF)) == NOWHERE - 0x1000);
    }
}

static void no_gates(void)
{
    for (unsigned int v = 0; v < 256; v++)
        take_away((uint8_t)v);
    breakpoint(NULL);
}

static void no_stack_at_all(void)
{
    for (unsigned int n = 1; n < 8; n++)
        set_ist(n, NOWHERE);
    for (unsigned int v = 0; v < 32; v++)
        guest_set_gate((uint8_t)v, guest_vectors[v], 14, 0, (uint8_t)(1 + v % 7));
    undefined(NULL);
}

/* Ends in the middle of #DF's entry. */
static void short_idt(void)
{
    load_idt(guest_idt, X86_DF * 16 + 7);
    general(NULL);
}

/* The handler begins with the same: down to where no stack is. */
static void undefined_forever(void)
{
    guest_map(0x600000000000, (uintptr_t)guest_page(), X86_PTE_P | X86_PTE_W, 0);
    guest_set_gate(X86_UD, (const void *)(uintptr_t)undefined, 14, 0, 0);
    guest_set_gate(X86_DF, guest_vectors[X86_DF], 14, 0, 0);
    __asm__ volatile("mov %0, %%rsp; ud2" : : "r"(UINT64_C(0x600000001000)));
}

/* --- without end --------------------------------------------------------------------------------- */

/* Of #DF's own handler: each new one has the stack from its top. */
static void fault_twice(struct guest_frame *f)
{
    (void)f;
    general(NULL);
}

static void double_forever(void)
{
    spoil_selector(X86_GP);
    guest_set_handler(X86_DF, fault_twice);
    general(NULL);
}

static void once_more(struct guest_frame *f)
{
    (void)f;
}

static void do_serial(unsigned int n)
{
    if (n & 1)
        breakpoint(NULL);
    undefined(NULL);
}

/* The second one's handler comes back to the first. */
static void serial_forever(void)
{
    spoil_selector(X86_BP);
    take_away(X86_UD);
    guest_set_handler(X86_GP, once_more);
    guest_set_handler(X86_NP, once_more);
    smp_start(do_serial);
    do_serial(0);
}

/* A timer's interrupt whose gate is no good, for ever: it was acknowledged, and is #GP. */
static void no_end(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
}

static void interrupts_that_fault(void)
{
    spoil_selector(VECTOR);
    guest_set_handler(X86_GP, no_end);
    apic_enable();
    apic_write(APIC_TIMER_DIVIDE, 0xB);
    apic_write(APIC_LVT_TIMER, 1 << 17 | VECTOR);
    apic_write(APIC_TIMER_COUNT, 1);
    __asm__ volatile("sti; 1: jmp 1b");
}

static const struct die_mode modes[] = {
    {"serial", serial},
    {"double", double_fault},
    {"page-after-contributory", page_after_contributory},
    {"no-gates", no_gates},
    {"no-stack-at-all", no_stack_at_all},
    {"short-idt", short_idt},
    {"undefined-forever", undefined_forever},
    {"double-forever", double_forever},
    {"serial-forever", serial_forever},
    {"interrupts-that-fault", interrupts_that_fault},
};

DIE_MAIN(modes)
