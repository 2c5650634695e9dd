/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Positions count the bytes that were ever written, 64 bits, which do not wrap in any machine's life; so there is
 * no "full" or "empty", and a reader that is too slow is one whose position is before the beginning. Writers never
 * wait for readers. Byte n is data[n % size]; sizes need not be powers of two.
 *
 * No locks: whoever shares a ring between CPUs has one around it. Pure.
 */
#include "native/ring.h"

#include "core/mem.h"

void ring_init(struct ring *r, void *memory, size_t size)
{
    *r = (struct ring){memory, size, 0};
}

uint64_t ring_begin(const struct ring *r)
{
    return r->end > r->size ? r->end - r->size : 0;
}

/* Bytes from that position on that lie in one piece. */
static size_t piece(const struct ring *r, uint64_t position, size_t wanted)
{
    size_t left = r->size - (size_t)(position % r->size);

    return wanted < left ? wanted : left;
}

void ring_write(struct ring *r, const void *p, size_t size)
{
    const uint8_t *bytes = p;

    if (size > r->size) { /* only its end will stay */
        bytes += size - r->size;
        r->end += size - r->size;
        size = r->size;
    }
    while (size > 0) {
        size_t n = piece(r, r->end, size);
        memcpy(r->data + r->end % r->size, bytes, n);
        bytes += n;
        r->end += n;
        size -= n;
    }
}

size_t ring_read(const struct ring *r, uint64_t *position, void *buf, size_t size, uint64_t *missed)
{
    uint64_t begin = ring_begin(r);
    uint8_t *to = buf;
    size_t done = 0;

    *missed = *position < begin ? begin - *position : 0;
    *position += *missed;
    if (*position > r->end)
        *position = r->end;
    if (size > r->end - *position)
        size = (size_t)(r->end - *position);
    while (done < size) {
        size_t n = piece(r, *position, size - done);
        memcpy(to + done, r->data + *position % r->size, n);
        *position += n;
        done += n;
    }
    return done;
}
