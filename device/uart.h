/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * 16550A UART (National PC16550D data sheet). Bytes go out through a back end; input comes by
 * uart_receive.
 */
#ifndef LODGE_DEVICE_UART_H
#define LODGE_DEVICE_UART_H

#include "core/irq.h"
#include "core/vm.h"

enum { UART_FIFO = 16 };

struct uart_backend {
    /* Bytes that the guest has sent. Board lock held; must not block for long. */
    void (*write)(void *owner, const uint8_t *bytes, size_t size);
    /* The guest has read: uart_receive would take something again. May be NULL. Board lock held, so
     * it may only note the fact and wake somebody. */
    void (*room)(void *owner);
};

struct uart {
    struct vm *vm;
    struct irq_line irq;
    const struct uart_backend *backend;
    void *owner;
    struct vm_timer timer; /* receive timeout */

    uint8_t ier, lcr, mcr, scr;
    uint8_t fcr;       /* bits 0 (enabled), 3, 7:6; 0 if not enabled */
    uint8_t lsr;       /* overrun and break, until LSR is read */
    uint8_t msr_delta; /* bits 3:0 of MSR */
    uint16_t divisor;  /* kept for the guest: lines have no speed here */
    uint8_t fifo[UART_FIFO];
    uint16_t fifo_break; /* bit n: fifo[n] is a break */
    uint8_t fifo_head, fifo_count;
    bool thr_interrupt;  /* the transmitter became empty, and IIR has not said so yet */
    bool timeout;        /* receive timeout is pending */
    uint64_t timeout_at; /* VM clock, or VM_TIMER_NEVER */
    bool line, line_said; /* the line's level, if it was said since the last reset or load; not saved */
    bool refused;        /* uart_receive took less than it was offered: call room; not saved */
};

int must_check uart_create(struct uart *u, struct vm *vm, uint16_t port, uint32_t instance,
                           struct irq_line irq, const struct uart_backend *backend, void *owner);
void uart_reset(struct uart *u); /* board lock held */
/* Input for the guest; returns how many bytes were taken. Takes the board lock. */
size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t size);
/* A break on the line (the operator wants SysRq). Takes the board lock; false if there is no room.
 */
bool uart_receive_break(struct uart *u);

#endif
