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
    uint8_t fcr;           /* bits 0 (enabled), 3, 7:6 */
    uint8_t lsr;           /* sticky bits only: overrun */
    uint8_t msr_delta;     /* bits 3:0 of MSR */
    uint16_t divisor;
    uint8_t fifo[UART_FIFO];
    uint8_t fifo_break;    /* unused bits 0 */
    uint8_t fifo_head, fifo_count;
    bool break_received;   /* the next byte to be read is a break (loopback only) */
    bool thr_interrupt;    /* transmitter became empty and IIR has not been read since */
    bool timeout;          /* receive timeout is pending */
    uint64_t timeout_at;   /* VM clock, or VM_TIMER_NEVER */
    bool refused;          /* uart_receive took less than it was offered: call room */
};

int must_check uart_create(struct uart *u, struct vm *vm, uint16_t port, uint32_t instance,
                           struct irq_line irq, const struct uart_backend *backend, void *owner);
void uart_reset(struct uart *u); /* board lock held */
/* Input for the guest; returns how many bytes were taken. Takes the board lock. */
size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t size);

#endif
