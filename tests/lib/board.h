/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM without processors, for unit tests of devices: buses, clock, a recorder for interrupt lines,
 * and what every device's saved state must hold.
 *
 * There is one per test program, because the fake seam remembers VMs by address.
 */
#ifndef LODGE_TESTS_LIB_BOARD_H
#define LODGE_TESTS_LIB_BOARD_H

#include "core/irq.h"
#include "core/vm.h"
#include "x86/lapic.h"

enum { BOARD_LINES = 32, BOARD_STATE = 8192 };

struct board {
    struct vm vm;
    struct apic_bus apic_bus; /* send records messages; no local APICs */
    bool level[BOARD_LINES];
    unsigned int edges[BOARD_LINES]; /* rising */
    struct apic_message last_message;
    unsigned int messages;
    int send_result;
};

/* Everything new, clock running. Cancels the timers of the device that was tested before, which the
 * caller must not have freed. */
void board_init(struct board *b);
/* A recording line. */
struct irq_line board_line(struct board *b, unsigned int number);

uint64_t board_in(struct board *b, uint16_t port, uint8_t size);
void board_out(struct board *b, uint16_t port, uint8_t size, uint64_t value);
uint64_t board_read(struct board *b, uint64_t address, uint8_t size);
void board_write(struct board *b, uint64_t address, uint8_t size, uint64_t value);

/* The one registered section (instance 0): its saved bytes, in buf[BOARD_STATE]; their number. */
size_t board_save(struct board *b, uint8_t *buf);
int board_check(struct board *b, const uint8_t *buf, size_t size);
void board_load(struct board *b, const uint8_t *buf, size_t size);

/* A row per field: with this value there, check must refuse. */
struct board_bad_state {
    uint16_t at;
    uint8_t size; /* 1, 2, 4 or 8 */
    uint64_t value;
};
void board_check_refuses(struct board *b, const struct board_bad_state *rows, size_t count);

/* Pseudo-random numbers from a fixed seed. */
uint64_t board_random(void);

/*
 * Hostile use of a device: random accesses of every size to [base, base + size) of a bus, with
 * misaligned and overhanging ones, the clock moving now and then. After every few the state is
 * saved, must pass check, is loaded over the state of a fresh device and saved again: the same
 * bytes. Then damaged states: those that check takes are loaded and poked at. What is left to the
 * sanitizers is that nothing else happens.
 */
struct board_fuzz {
    struct bus *bus;
    uint64_t base, size;
    unsigned int rounds;
    void (*more)(void); /* called in each round too: input from elsewhere; may be NULL */
    uint64_t step_ns;   /* the clock moves by up to this much */
};
void board_fuzz(struct board *b, const struct board_fuzz *f);

#endif
