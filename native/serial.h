/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* COM1, 115200n8: the operator's console, and a sink of the log. Nothing here waits for the port, but for write_now
 * and serial_drain, which are bounded. (serial.c) */
#ifndef LODGE_NATIVE_SERIAL_H
#define LODGE_NATIVE_SERIAL_H

#include "core/types.h"
#include "native/log.h"

enum { SERIAL_IRQ = 4 }; /* ISA: edge, active high, unless the MADT overrides it */

/* Finds the port and sets it up; polled for now. False: there is none, and what is written is discarded. Once. */
bool serial_init(void);
/* From now on the port raises interrupts: its line has been routed to serial_interrupt. */
void serial_enable_interrupts(void);

/* Queues; the oldest is lost if there is no room, and the terminal is told how much. Any CPU, any lock held but
 * ours. */
void serial_write(const char *bytes, size_t size);
/* How many bytes can be queued now without a loss, for who has more and can wait (a guest's output). */
size_t serial_room(void);
/* Nothing waits to be sent any more, but for what the port itself holds. */
bool serial_sent(void);
/* Takes what was received; how many bytes. */
size_t serial_read(char *buf, size_t size);
/* Called without a lock after something was received, by whoever found it (serial_interrupt, serial_poll). NULL:
 * nobody. */
void serial_on_receive(void (*received)(void));

/* Moves bytes between port and rings: from the interrupt's handler, and, until there are interrupts or in case one
 * is lost, from idle loops. Cheap if there is nothing to do. */
void serial_interrupt(void);
void serial_poll(void);

/* Everything queued, then these bytes, by polling, without a lock: in a panic. Gives up on a port that is stuck. */
void serial_write_now(const char *bytes, size_t size);
/* Waits, a few seconds at most, until everything queued is out: before power off. */
void serial_drain(void);

struct serial_counts {
    uint64_t sent, lost;              /* bytes; lost for want of room */
    uint64_t received, received_lost; /* ... or by the port's own overrun */
    uint64_t line_errors;             /* framing, parity, break */
};
void serial_count(struct serial_counts *c);

/* For the log: ends of lines become CR LF. */
extern const struct log_sink serial_sink;

#endif
