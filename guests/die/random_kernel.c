/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Executes random bytes at CPL 0: the guest may die of it in any way, Lodge may not. "seed=N" on
 * the command line.
 *
 * run: seed=@ => any vcpus=2 seconds=4
 * run: seed=@ => any vcpus=2 seconds=4 level=host
 */
#include "guests/lib/guest.h"

enum { ROUNDS = 20000 };

static volatile unsigned int round_now;

static void on_timer(struct guest_frame *f)
{
    apic_write(APIC_EOI, 0);
    guest_leave(f, NO_FAULT);
}

static void on_nmi(struct guest_frame *f)
{
    guest_leave(f, NO_FAULT);
}

/* A second processor watches: if a round takes long (interrupts off, endless loop) it sends an NMI.
 */
static void watch(unsigned int n)
{
    unsigned int seen = 0, patience = 0;
    while (n == 1) {
        pause();
        if (round_now != seen) {
            seen = round_now;
            patience = 0;
        } else if (++patience == 20000) {
            patience = 0;
            apic_send(0, 0x4400);
        }
    }
}

/* A wild RSP must not keep us from getting control back: all vectors on a stack of their own, and
 * nothing mapped that need not be, so that it faults soon. */
static void contain(void)
{
    extern uint8_t guest_vectors[256][16];
    static uint8_t stack[16384] __attribute__((aligned(16)));
    *(volatile uint64_t *)(guest_tss + 28 + 2 * 8) = (uintptr_t)stack + sizeof(stack);
    for (unsigned int v = 0; v < 256; v++) {
        if (v != X86_DF)
            guest_set_gate((uint8_t)v, guest_vectors[v], 14, 0, 2);
    }
    for (uint64_t a = 0x4000000; a < 0x100000000; a += 0x200000) {
        if (a >> 21 != LODGE_MMIO_APIC >> 21)
            *guest_entry(a, 1) = 0;
    }
    flush_tlb();
}

/* Common opcodes more often than chance has it, so that runs get longer and reach system state. */
static const uint8_t common[] = {0x0F, 0x0F, 0x01, 0x20, 0x22, 0x8E, 0xCF, 0x48, 0x9D,
                                 0x66, 0x89, 0x8B, 0xF3, 0x30, 0x00, 0x07, 0xC5};

int main(void)
{
    uint8_t *code = guest_page();
    (void)guest_page();
    apic_enable();
    guest_set_handler(X86_NMI, on_nmi);
    guest_set_handler(0x50, on_timer);
    if (smp_count() > 1)
        smp_start(watch);
    contain();
    apic_write(APIC_TIMER_DIVIDE, 0xB);
    for (round_now = 0; round_now < ROUNDS; round_now++) {
        for (unsigned int n = 0; n < 4096; n += 8)
            *(volatile uint64_t *)(code + n) = guest_random();
        for (unsigned int n = 0; round_now & 1 && n < 4096;
             n += 1 + (unsigned int)(guest_random() & 7))
            code[n] = common[guest_random() % sizeof(common)];
        apic_write(APIC_LVT_TIMER, 0x50);
        apic_write(APIC_TIMER_COUNT, 500000);
        __asm__ volatile("sti");
        (void)guest_try(guest_call, code + (guest_random() & 0xFFF));
        __asm__ volatile("cli");
    }
    guest_print("PASS random_kernel\n");
    return 0;
}
