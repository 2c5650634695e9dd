/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Barriers of this machine (speculation.c); engine/speculation.h has the plan. */
#ifndef LODGE_NATIVE_SPECULATION_H
#define LODGE_NATIVE_SPECULATION_H

#include "core/types.h"

/* Makes the plan, and plain jumps of retpolines where they are not needed: while our code can be written, before
 * memory_init and other CPUs. */
void speculation_begin(void);
/* The plan as it stays, now that it is known whether threads of one core run different VMs; it is said. */
void speculation_settle(bool shared);
/* On this CPU, what holds for good. */
void speculation_cpu_on(void);

#endif
