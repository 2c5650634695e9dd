/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * An interrupt wire from a device to whoever it is soldered to. A device holds a struct irq_line
 * and sets its level; the machine decides at the other end (8259 and I/O APIC). Setting a level
 * that it already has does nothing. Called with the board lock held.
 */
#ifndef LODGE_CORE_IRQ_H
#define LODGE_CORE_IRQ_H

#include "core/types.h"

struct irq_line {
    void (*set)(void *owner, unsigned int number, bool level); /* NULL: not connected */
    void *owner;
    unsigned int number;
};

static inline void irq_line_set(const struct irq_line *l, bool level)
{
    if (l->set)
        l->set(l->owner, l->number, level);
}

/* An edge: up and down again. */
static inline void irq_line_pulse(const struct irq_line *l)
{
    irq_line_set(l, true);
    irq_line_set(l, false);
}

#endif
