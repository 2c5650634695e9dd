/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The newest output of the guest's serial port, for those who attach to it later or read slowly: each reader
 * has a place of its own in the stream, and skips what is not kept any more when it comes to it.
 *
 * Locking: a leaf. A vCPU's thread puts, the main thread gets.
 */
#ifndef LODGE_HOSTED_CONSOLE_RING_H
#define LODGE_HOSTED_CONSOLE_RING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONSOLE_RING = 64 << 10 };

struct console_ring {
    pthread_mutex_t lock;
    uint64_t head;            /* bytes ever put */
    _Atomic uint32_t readers; /* that want to be told: main thread writes */
    _Atomic bool told;        /* the main thread has been woken and has not looked yet */
    uint8_t bytes[CONSOLE_RING];
};

void console_ring_init(struct console_ring *r);
/* True: there are readers, whom nobody has told yet. */
bool console_ring_put(struct console_ring *r, const uint8_t *bytes, size_t n);
/* From *at on, which is moved: how many. *lost: bytes that were skipped. */
size_t console_ring_get(struct console_ring *r, uint64_t *at, uint8_t *to, size_t size, uint64_t *lost);
/* Is there something behind `at`? */
bool console_ring_has(struct console_ring *r, uint64_t at);

#endif
