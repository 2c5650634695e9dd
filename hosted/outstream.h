/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A bounded output stream to a file descriptor, with a thread of its own: see outstream.c. */
#ifndef LODGE_HOSTED_OUTSTREAM_H
#define LODGE_HOSTED_OUTSTREAM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    OUTSTREAM_WAIT_MS = 100, /* longest that a writer waits for a stopped reader, once per stall */
    OUTSTREAM_WAITS = 4,     /* times that: longest that it waits for any reader */
    OUTSTREAM_LINGER_MS = 1, /* for which bytes gather before they are written */
};

struct outstream {
    pthread_mutex_t lock;
    pthread_cond_t data; /* the thread waits for bytes */
    pthread_cond_t room; /* writers and outstream_flush wait for progress */
    uint8_t *buf;
    size_t size;   /* power of two */
    uint64_t head; /* bytes ever put */
    uint64_t tail; /* bytes ever written out; head - tail <= size */
    int fd;
    const char *what; /* "console output", for the notice about dropped bytes */
    bool lingers;     /* set by whoever made it: bytes gather for OUTSTREAM_LINGER_MS */
    bool asleep;      /* the thread has nothing to do; else it comes by without being woken */
    bool hurry;       /* outstream_flush waits: the thread does not linger */
    bool stalled;     /* the reader has stopped: drop without waiting until half is free */
    bool broken;      /* writing failed for good; everything is dropped */
    uint64_t dropped; /* since the last notice */
    /* Writing failed with this errno; called once, on the stream's thread, no lock held. */
    void (*on_broken)(void *owner, int error);
    void *owner;
};

/* size: a power of two. ERR_NO_MEMORY. */
int outstream_init(struct outstream *s, int fd, size_t size, const char *what,
                   void (*on_broken)(void *owner, int error), void *owner);
/* The body of the stream's thread; never returns. */
_Noreturn void outstream_run(struct outstream *s);
/* Any thread. Waits at most OUTSTREAM_WAITS times OUTSTREAM_WAIT_MS, then drops. */
void outstream_put(struct outstream *s, const void *bytes, size_t n);
/* Waits until everything is written, the stream is broken, its reader has taken nothing for about
 * stalled_ms, or about total_ms are over: is it empty? */
bool outstream_flush(struct outstream *s, unsigned int stalled_ms, unsigned int total_ms);

#endif
