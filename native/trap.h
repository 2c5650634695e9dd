/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Exceptions and interrupts (trap.S, trap.c): all CPUs share one IDT. */
#ifndef LODGE_NATIVE_TRAP_H
#define LODGE_NATIVE_TRAP_H

#include "core/types.h"

/* What trap.S leaves on the stack, lowest address first. */
struct trap_frame {
    uint64_t gpr[16]; /* by number (isa/x86.h); RSP's place holds CR2 */
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss; /* pushed by the processor */
};

/* Makes the IDT; the boot processor, once. */
void trap_init(void);
/* Loads it on this CPU. */
void trap_load(void);
/* Calls handler(), interrupts off, whenever that vector (32 or above) is taken, on whatever CPU; then the local APIC
 * is told. NULL: nobody; it is counted and said once. */
void trap_set_handler(uint8_t vector, void (*handler)(void));

#endif
