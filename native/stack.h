/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Stacks, each with a page below it that is not mapped, so that one that runs over is a fault and not somebody else's
 * damage. Interrupts off; spin locks of its own, below the run queue's. */
#ifndef LODGE_NATIVE_STACK_H
#define LODGE_NATIVE_STACK_H

#include "core/types.h"

/* size bytes (whole pages), page-aligned, by the lowest address, with whatever is in them; NULL: no memory. */
void *stack_alloc(size_t size);
/* What stack_alloc gave, with its size; no CPU stands on it. NULL does nothing. */
void stack_free(void *stack, size_t size);

#endif
