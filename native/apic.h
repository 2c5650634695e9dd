/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* This machine's local APICs (apic.c) and I/O APICs (io_apic.c). */
#ifndef LODGE_NATIVE_APIC_H
#define LODGE_NATIVE_APIC_H

#include "core/err.h"
#include "core/types.h"

struct acpi;

/* The boot processor: decides on xAPIC or x2APIC. ERR_UNSUPPORTED: there is none. */
int must_check apic_init(const struct acpi *a, bool want_x2apic);
/* This CPU's, from reset or from whatever the firmware left; the timer is off. */
void apic_cpu_init(void);
/* How fast the timer counts, by the TSC: the boot processor, once hw_tsc_khz is known. */
void apic_calibrate(void);
uint32_t apic_id(void);
bool apic_is_x2apic(void);
bool apic_has_deadline(void);
uint32_t apic_timer_khz(void);
void apic_end_interrupt(void);

/* SDM 3A, 8.4.4: to one that is not running yet; and to all others, NMI. */
void apic_send_init(uint32_t to);
void apic_send_startup(uint32_t to, uint64_t page);
void apic_send_nmi(uint32_t to);
/* VECTOR_KICK to this CPU, even between the halves of another message: from the handler of an NMI. */
void apic_kick_self(void);
/* Waits by the TSC. */
void apic_delay_us(uint32_t us);

/* Masks every pin of every I/O APIC, and the 8259s. */
void io_apic_init(const struct acpi *a);
/* That ISA interrupt, or ACPI's (SCI), leads to the boot processor as vector. ERR_NOT_FOUND: no I/O APIC has it.
 * Handlers are set before. */
int must_check io_apic_route(const struct acpi *a, uint8_t irq, uint8_t vector);

#endif
