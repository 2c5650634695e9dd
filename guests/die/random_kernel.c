/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Executes random bytes at CPL 0: the guest may die of it in any way, Lodge may not. "seed=N" on
 * the command line. */
#include "guests/lib/guest.h"

enum { ROUNDS = 400 };

static void ignore(struct guest_frame *f)
{
    (void)f;
}

static void on_timer(struct guest_frame *f)
{
    apic_write(APIC_EOI, 0);
    guest_leave(f, NO_FAULT);
}

int main(void)
{
    uint8_t *code = guest_page();
    (void)guest_page();
    apic_enable();
    guest_set_handler(X86_NMI, ignore);
    guest_set_handler(0x50, on_timer);
    apic_write(APIC_TIMER_DIVIDE, 0xB);
    for (int round = 0; round < ROUNDS; round++) {
        for (unsigned int n = 0; n < 4096; n += 8)
            *(volatile uint64_t *)(code + n) = guest_random();
        apic_write(APIC_LVT_TIMER, 0x50);
        apic_write(APIC_TIMER_COUNT, 500000);
        __asm__ volatile("sti");
        (void)guest_try(guest_call, code + (guest_random() & 0xFFF));
        __asm__ volatile("cli");
    }
    guest_print("PASS random_kernel\n");
    return 0;
}
