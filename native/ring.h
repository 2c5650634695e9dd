/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A ring of bytes: what was written last is kept, the oldest is lost, and readers, each with a position of its own,
 * learn how much they have missed. A guest's console output, the log, what waits for the serial port. (ring.c)
 */
#ifndef LODGE_NATIVE_RING_H
#define LODGE_NATIVE_RING_H

#include "core/types.h"

struct ring {
    uint8_t *data;
    size_t size;
    uint64_t end; /* bytes ever written: the position after the newest */
};

/* memory: size > 0 bytes, the caller's, for as long as the ring is used. */
void ring_init(struct ring *r, void *memory, size_t size);
void ring_write(struct ring *r, const void *p, size_t size);
/* Position of the oldest byte that is still there; r->end if there is none. */
uint64_t ring_begin(const struct ring *r);
/*
 * Copies up to size bytes from *position on and moves it behind them; how many. If what was there is lost,
 * *position is brought to the oldest first, and *missed says by how much; else it is 0. A position beyond the end
 * is the end.
 */
size_t ring_read(const struct ring *r, uint64_t *position, void *buf, size_t size, uint64_t *missed);

#endif
