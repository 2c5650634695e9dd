/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The last words (panic.c). seam_panic is declared in core/seam.h. */
#ifndef LODGE_NATIVE_PANIC_H
#define LODGE_NATIVE_PANIC_H

#include <stdnoreturn.h>

#include "core/types.h"

struct trap_frame;

/* An exception in the hypervisor. */
noreturn void panic_trap(const struct trap_frame *f);
/* What the machine or its user did wrong at start-up, in words; without registers. */
noreturn void panic_words(const char *format, ...) printf_like(1, 2);

#endif
