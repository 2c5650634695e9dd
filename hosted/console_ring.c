/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The newest output of the guest's serial port: see console_ring.h. */
#include "hosted/console_ring.h"

#include <string.h>

void console_ring_init(struct console_ring *r)
{
    pthread_mutex_init(&r->lock, NULL);
    r->head = 0;
    atomic_init(&r->readers, 0);
    atomic_init(&r->told, false);
}

/* Both ways round the end of the ring. */
static size_t until_end(uint64_t at, size_t n)
{
    size_t room = CONSOLE_RING - (size_t)(at % CONSOLE_RING);

    return n < room ? n : room;
}

bool console_ring_put(struct console_ring *r, const uint8_t *bytes, size_t n)
{
    pthread_mutex_lock(&r->lock);
    while (n > 0) {
        size_t part = until_end(r->head, n);

        memcpy(r->bytes + r->head % CONSOLE_RING, bytes, part);
        r->head += part;
        bytes += part;
        n -= part;
    }
    pthread_mutex_unlock(&r->lock);
    return atomic_load(&r->readers) > 0 && !atomic_exchange(&r->told, true);
}

size_t console_ring_get(struct console_ring *r, uint64_t *at, uint8_t *to, size_t size, uint64_t *lost)
{
    size_t n = 0;

    pthread_mutex_lock(&r->lock);
    *lost = r->head - *at > CONSOLE_RING ? r->head - *at - CONSOLE_RING : 0;
    *at += *lost;
    while (n < size && *at < r->head) {
        size_t left = (size_t)(r->head - *at), part = until_end(*at, left < size - n ? left : size - n);

        memcpy(to + n, r->bytes + *at % CONSOLE_RING, part);
        *at += part;
        n += part;
    }
    pthread_mutex_unlock(&r->lock);
    return n;
}

bool console_ring_has(struct console_ring *r, uint64_t at)
{
    bool has;

    pthread_mutex_lock(&r->lock);
    has = r->head > at;
    pthread_mutex_unlock(&r->lock);
    return has;
}
