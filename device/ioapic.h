/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * I/O APIC with 24 inputs (Intel 82093AA data sheet; version 0x20 with the EOI register of the ICH
 * family), at LODGE_MMIO_IO_APIC. Wire apic_bus.eoi = ioapic_eoi, apic_bus.io_apic = this.
 */
#ifndef LODGE_DEVICE_IOAPIC_H
#define LODGE_DEVICE_IOAPIC_H

#include "core/vm.h"

enum { IOAPIC_PINS = 24, IOAPIC_VERSION = 0x20 };

struct ioapic {
    struct vm *vm;
    uint8_t select; /* IOREGSEL */
    uint8_t id;     /* bits 27:24 of register 0 */
    uint32_t line;  /* input levels now, asserted = 1 whatever the polarity bit says */
    uint64_t redirect[IOAPIC_PINS];
};

int must_check ioapic_create(struct ioapic *a, struct vm *vm);
void ioapic_reset(struct ioapic *a); /* board lock held */
/* As irq_line.set. Board lock held. */
void ioapic_set_pin(void *io_apic, unsigned int pin, bool level);
/* As apic_bus.eoi: takes the board lock. */
void ioapic_eoi(void *io_apic, uint8_t vector);
/* With the VM at rest: `held` has a bit for each vector that a local APIC has requested or in
 * service. What waits for the EOI of another one has missed it, and is ended. Whether there was one.
 * Takes the board lock. */
bool ioapic_end_missed(struct ioapic *a, const uint64_t held[4]);

#endif
