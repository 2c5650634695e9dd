/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The local APIC (SDM 3A, chapter 10): xAPIC and x2APIC registers, timer (one-shot, periodic,
 * TSC-deadline), LVT, IPIs, and the bus that carries interrupt messages between local APICs, I/O
 * APIC and MSI. State is the architectural 4 KiB page, so that AVIC and APICv can use it later.
 *
 * Locking: registers are written by the vCPU's own thread. IRR, TMR and the request bits of the
 * vCPU are atomic and may be posted by any thread, with or without locks held. The timer fires on
 * the timer thread and only posts.
 */
#ifndef LODGE_X86_LAPIC_H
#define LODGE_X86_LAPIC_H

#include "core/clock.h"
#include "core/state.h"
#include "core/types.h"
#include "core/vm.h"

struct x86_cpu;

/* The timer's input clock, and what a periodic timer is held to (bad-inputs D4). */
enum { LAPIC_TIMER_HZ = 1000000000, LAPIC_TIMER_MIN_PERIOD_NS = 100000 };

enum apic_delivery { /* SDM 3A 10.6.1 */
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

/* One interrupt message. */
struct apic_message {
    uint32_t destination;
    bool logical; /* destination mode */
    uint8_t delivery; /* enum apic_delivery */
    uint8_t vector;
    bool level;      /* trigger mode: level */
    bool deassert;   /* INIT level de-assert */
};

/* Who takes messages, per VM. Under soft x86/lapic.c; an engine whose hardware or kernel keeps the
 * local APICs puts its own send here. */
struct apic_bus {
    /* Any thread. ERR_NOT_FOUND if no APIC matched. */
    int (*send)(struct vm *vm, const struct apic_message *m);
    /* I/O APIC: a level-triggered vector was EOIed (called by the local APIC, no lock held). */
    void (*eoi)(void *io_apic, uint8_t vector);
    void *io_apic;
    /* 8259: acknowledge, gives the vector, or -1 when spurious beyond sense. Takes the board lock. */
    int (*ack_extint)(void *pic);
    void *pic;
    _Atomic bool extint; /* level of the 8259's INTR output */
};

static inline int apic_send(struct vm *vm, const struct apic_message *m)
{
    return vm->apic_bus->send(vm, m);
}

/* A message-signalled interrupt: decodes address and data (SDM 3A 10.11). Addresses outside
 * FEExxxxx are refused with ERR_RANGE. */
int msi_send(struct vm *vm, uint64_t address, uint32_t data);

/* The 8259's INTR output changed: tells the boot processor. Any thread. */
void apic_set_extint(struct vm *vm, bool level);

/* x86/lapic.c's own send, for apic_bus.send under engines that use this model. */
int lapic_bus_send(struct vm *vm, const struct apic_message *m);

int must_check lapic_create(struct x86_cpu *cpu);
void lapic_destroy(struct x86_cpu *cpu);
void lapic_reset(struct x86_cpu *cpu, bool init); /* init: INIT, else power-on */

/* MMIO page (offset 0..0xFFF; only naturally aligned 32-bit accesses do something). */
uint32_t lapic_mmio_read(struct x86_cpu *cpu, uint32_t offset);
void lapic_mmio_write(struct x86_cpu *cpu, uint32_t offset, uint32_t value);
/* Is this guest-physical page the local APIC's, as APIC_BASE says (enabled, xAPIC mode)? */
bool lapic_owns_page(const struct x86_cpu *cpu, uint64_t physical);
/* x2APIC MSRs 0x800-0x8FF and APIC_BASE, TSC_DEADLINE: OK, or ERR_INVALID for #GP(0). */
int lapic_msr_read(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
int lapic_msr_write(struct x86_cpu *cpu, uint32_t index, uint64_t value);

uint8_t lapic_id(const struct x86_cpu *cpu); /* xAPIC id = x2APIC id = vCPU id */
uint64_t lapic_base_msr(const struct x86_cpu *cpu);
/* CR8 = TPR bits 7:4 */
uint8_t lapic_get_cr8(const struct x86_cpu *cpu);
void lapic_set_cr8(struct x86_cpu *cpu, uint8_t cr8);

/* Own thread: is there an interrupt to take now, IF set aside (PPR considered; ExtINT through LINT0
 * included)? Cheap. */
bool lapic_has_interrupt(struct x86_cpu *cpu);
/* Takes it: moves IRR to ISR (or acknowledges the 8259) and returns the vector; -1 if gone. */
int lapic_take_interrupt(struct x86_cpu *cpu);

/* What PC firmware leaves behind on the boot processor (virtual wire mode, MultiProcessor
 * Specification 1.4, 3.6.2.2): enabled, LINT0 ExtINT, LINT1 NMI. For boot protocols that hand over
 * without firmware; after lapic_reset. */
void lapic_set_virtual_wire(struct x86_cpu *cpu);

/* Own thread: TSC or TSC_ADJUST was written; a TSC deadline that is set moves with it. */
void lapic_tsc_changed(struct x86_cpu *cpu);

/* An edge on all processors' LINT1 (the operator's NMI button). Any thread. */
void apic_pulse_lint1(struct vm *vm);

/* Adds the vectors that are requested or in service to held[] (bit n of word n / 64). False: this
 * APIC tells nobody of the ends of interrupts (SVR bit 12), so nothing follows from what it has not.
 * The vCPU is at rest. */
bool lapic_add_held(const struct x86_cpu *cpu, uint64_t held[4]);

/* For engines whose kernel or hardware keeps the APIC (x86/lapic_page.c); the vCPU is at rest. */
enum { LAPIC_PAGE_SIZE = 1024 };
void lapic_hold_timer(struct x86_cpu *cpu); /* ours does not fire from now on */
void lapic_get_page(const struct x86_cpu *cpu, uint8_t page[LAPIC_PAGE_SIZE]);
uint64_t lapic_get_tsc_deadline(const struct x86_cpu *cpu);
void lapic_set_page(struct x86_cpu *cpu, const uint8_t page[LAPIC_PAGE_SIZE], uint64_t base,
                    uint64_t tsc_deadline);

/* Does a level-triggered interrupt's end stay with the local APIC (the guest tells the I/O APIC)? */
bool lapic_page_suppresses_eoi(const uint8_t page[LAPIC_PAGE_SIZE]);

/* State section "lapic", object = struct x86_cpu, instance = vCPU id. Registered by whoever
 * registers the processor's own section. */
extern const struct state_ops lapic_state_ops;

#endif
