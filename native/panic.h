/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The last words (panic.c). seam_panic is declared in core/seam.h. */
#ifndef LODGE_NATIVE_PANIC_H
#define LODGE_NATIVE_PANIC_H

#include <stdnoreturn.h>

#include "core/types.h"

struct trap_frame;

/* An exception in the hypervisor, or the NMI by which a CPU that panics stops this one. */
noreturn void panic_trap(const struct trap_frame *f);
/* What the machine or its user did wrong at start-up, in words; without registers. */
noreturn void panic_words(const char *format, ...) printf_like(1, 2);
/* Some CPU has begun to. */
bool panic_is_on(void);
/* How many CPUs it has silenced. */
uint32_t panic_stopped(void);

#endif
