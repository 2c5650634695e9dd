/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * 8254 programmable interval timer at 0x40 (Intel 8254 data sheet) and the parts of system control
 * port B (0x61) that belong to it: channel 2's gate and output, speaker data, refresh toggle.
 */
#ifndef LODGE_DEVICE_I8254_H
#define LODGE_DEVICE_I8254_H

#include "core/irq.h"
#include "core/vm.h"

enum {
    I8254_HZ = 1193182,
    /* Periodic interrupts closer together than this are merged (bad-inputs D4). */
    I8254_MIN_PERIOD_NS = 100000,
};

/* What is saved of one channel. */
struct i8254_channel {
    uint64_t start;   /* VM clock when counting began, valid while running */
    uint64_t elapsed; /* ns counted so far, valid while not running */
    uint32_t count; /* initial count, 1..65536 (1..10000 in BCD); 1..65536 before the first load */
    uint8_t mode;   /* 0-5 */
    uint8_t access; /* 1 low byte, 2 high byte, 3 low then high */
    bool bcd;
    bool loaded;  /* a count was written since the control word */
    bool running; /* counts now */
    bool gate;
    bool write_high; /* access 3: the high byte comes next; write_low is held */
    bool read_high;
    uint8_t write_low;
    uint8_t latched_bytes; /* of a latched count still to be read: 0-2 */
    uint16_t latched;
    bool status_latched;
    uint8_t status;
};

struct i8254 {
    struct vm *vm;
    struct irq_line irq; /* channel 0's output: pulsed at each rising edge */
    struct vm_timer timer;
    struct i8254_channel channel[3];
    uint64_t next_edge; /* VM clock of channel 0's next interrupt, or VM_TIMER_NEVER */
    uint8_t port61;     /* bits 0-3 as written */
};

int must_check i8254_create(struct i8254 *t, struct vm *vm, struct irq_line irq);
void i8254_reset(struct i8254 *t); /* board lock held */

#endif
