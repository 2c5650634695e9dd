/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The IDT and what its entries lead to (SDM 3A, 6.10). An exception in the hypervisor is a bug of ours, or the
 * machine's end: panic. NMI, double fault and machine check have stacks of their own, since they come when the stack
 * may be what is broken. An NMI stops this CPU if another one wants that (smp.c), else it is said and survived: it may be
 * the operator's button.
 *
 * Interrupts are taken only where cpu.c lets them in (docs/native.md), so a handler may do anything that the code
 * there may; it is told to the local APIC afterwards. 0x20 to 0x2F are where the 8259s' spurious ones would come:
 * they are masked, so no end is told.
 *
 * Handlers are set at start-up, before the interrupt can come.
 */
#include "native/trap.h"

#include "core/assert.h"
#include "isa/x86.h"
#include "native/apic.h"
#include "native/cpu.h"
#include "native/cpu_start.h"
#include "native/layout.h"
#include "native/log.h"
#include "native/panic.h"

enum { ENTRY_SIZE = 16, FIRST_OURS = 32, PIC_FIRST = 0x20, PIC_LAST = 0x2F };

struct gate { /* SDM 3A, figure 6-8 */
    uint16_t offset_0, selector;
    uint8_t ist, type;
    uint16_t offset_16;
    uint32_t offset_32, reserved;
};

static struct gate idt[256] __attribute__((aligned(16)));
static void (*handlers[256])(void);
static _Atomic bool said[256];
static _Atomic uint64_t nmi_at[HW_CPUS]; /* where it was taken; 0: none to tell of */

extern uint8_t trap_entries[];
void trap_dispatch(struct trap_frame *f);

void trap_init(void)
{
    for (uint32_t i = 0; i < ARRAY_SIZE(idt); i++) {
        uint64_t at = (uint64_t)trap_entries + (uint64_t)ENTRY_SIZE * i;

        idt[i] = (struct gate){
            .offset_0 = (uint16_t)at,
            .selector = SELECTOR_CODE,
            .type = 0x8E, /* present, interrupt gate */
            .offset_16 = (uint16_t)(at >> 16),
            .offset_32 = (uint32_t)(at >> 32),
        };
    }
}

void trap_load(void)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uint64_t)idt};

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

/* From when this CPU's TSS has the stacks: cpu.c. */
void trap_use_stacks(void)
{
    idt[X86_NMI].ist = IST_NMI;
    idt[X86_DF].ist = IST_DOUBLE_FAULT;
    idt[X86_MC].ist = IST_MACHINE_CHECK;
}

void trap_set_handler(uint8_t vector, void (*handler)(void))
{
    assert(vector >= FIRST_OURS);
    handlers[vector] = handler;
}

/* An NMI may have come while the log's lock was held here, so it only notes, and an interrupt after it tells. */
static void note_nmi(uint64_t rip)
{
    atomic_store(&nmi_at[this_cpu()->index], rip);
    apic_kick_self();
}

static void tell_nmi(void)
{
    uint64_t rip = atomic_exchange(&nmi_at[this_cpu()->index], 0);

    if (rip)
        log_line("an NMI on CPU %u, at 0x%llx", this_cpu()->index, (unsigned long long)rip);
}

static bool is_of_pic(uint8_t vector)
{
    return vector >= PIC_FIRST && vector <= PIC_LAST;
}

static void interrupt(uint8_t vector)
{
    this_cpu()->interrupts++;
    tell_nmi();
    if (vector == VECTOR_SPURIOUS)
        return; /* has no end (SDM 3A, 10.9) */
    if (handlers[vector])
        handlers[vector]();
    else if (!atomic_exchange(&said[vector], true))
        log_line("%s: vector 0x%x on CPU %u",
                 is_of_pic(vector) ? "a spurious interrupt of the 8259s" : "an interrupt that nobody asked for", vector,
                 this_cpu()->index);
    if (!is_of_pic(vector))
        apic_end_interrupt();
}

void trap_dispatch(struct trap_frame *f)
{
    if (f->vector >= FIRST_OURS) {
        interrupt((uint8_t)f->vector);
    } else if (f->vector == X86_NMI && cpu_is_stopping()) {
        cpu_stop_here();
    } else if (f->vector == X86_NMI) {
        note_nmi(f->rip);
    } else {
        panic_trap(f);
    }
}
