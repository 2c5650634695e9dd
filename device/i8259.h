/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The PC's pair of 8259A interrupt controllers (Intel 8259A data sheet; 82371AB for ELCR), master
 * at 0x20 and slave at 0xA0, cascaded at IRQ 2. The master's INTR output goes to the local APIC bus
 * (apic_set_extint). Wire apic_bus.ack_extint = i8259_ack, apic_bus.pic = the pair.
 */
#ifndef LODGE_DEVICE_I8259_H
#define LODGE_DEVICE_I8259_H

#include "core/vm.h"

/* What is saved of one chip. */
struct i8259_chip {
    uint8_t line; /* input levels now */
    uint8_t irr;  /* requests: latched edges, or the level of level-triggered inputs */
    uint8_t isr;
    uint8_t imr;
    uint8_t elcr;        /* 1: input is level-triggered */
    uint8_t vector_base; /* ICW2, low three bits clear */
    uint8_t lowest;      /* input with the lowest priority, 0-7; 7 after reset */
    uint8_t next_icw;    /* initialization word that is awaited: 2, 3, 4, or 0 when ready */
    bool needs_icw4;     /* ICW1.IC4 */
    bool auto_eoi;
    bool rotate_auto;  /* rotate priorities in automatic EOI mode */
    bool fully_nested; /* special fully nested mode, ICW4.SFNM */
    bool special_mask;
    bool read_isr; /* OCW3: port 0 reads ISR, else IRR */
    bool poll;     /* OCW3: the next read acknowledges */
};

struct i8259 {
    struct vm *vm;
    struct i8259_chip chip[2]; /* master, slave */
    bool intr;                 /* the master's output, as last told to the APIC bus */
};

int must_check i8259_create(struct i8259 *p, struct vm *vm);
/* Power-on state. Board lock held. */
void i8259_reset(struct i8259 *p);
/* As irq_line.set: input 0-15 (2 is the cascade and cannot be set). Board lock held. */
void i8259_set_line(void *pic, unsigned int input, bool level);
/* INTA: the vector to deliver, or -1 if INTR is no longer asserted. Takes the board lock. */
int i8259_ack(void *pic);

#endif
