/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* How a CPU becomes one of ours (cpu.c, smp.c), for start-up only. */
#ifndef LODGE_NATIVE_CPU_START_H
#define LODGE_NATIVE_CPU_START_H

#include <stdnoreturn.h>

#include "core/err.h"
#include "core/types.h"

struct acpi;
struct cpu;

/* The boot processor's. */
struct cpu *cpu_boot(void);
/* Fills a zeroed struct cpu, but for the stacks below. */
void cpu_prepare(struct cpu *c, uint32_t index);
int must_check cpu_give_stacks(struct cpu *c);
/* This CPU becomes *c: GDT, TSS, GS, IDT. */
void cpu_load(struct cpu *c);
/* All CPUs that are prepared have stacks for NMI, #DF and #MC: use them. (trap.c) */
void trap_use_stacks(void);

/* Starts all others that the MADT has, one after the other; they wait. One that does not start is said and left out.
 * (smp.c) */
void smp_start(const struct acpi *a);
/* Parks all but one thread of each core, or says that cores are shared. True: they are, and there is such a core. Before
 * smp_go. */
bool smp_cores(bool shared);
/* They begin to schedule. */
void smp_go(void);
/* Continues on that stack, whose end is given, for ever. (trampoline.S) */
noreturn void stack_switch(void *end, void (*function)(void));

#endif
