/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Output that never stalls the machine for long. The guest's serial output and Lodge's own messages
 * go to descriptors whose reader may be slow or stopped (Ctrl-S, a pager, a full pipe), and they
 * are produced by vCPU threads with the board lock held, which timers need too. So bytes go into a
 * ring and a thread of the stream's own does the blocking write().
 *
 * Why a thread and not O_NONBLOCK: that flag belongs to the open file description, which we share
 * with the shell that started us and with whatever else it runs. Setting it breaks them, and after
 * SIGKILL nobody takes it back.
 *
 * Policy when the ring is full: back-pressure first. The writer waits for room up to
 * OUTSTREAM_WAIT_MS; a reader that makes any progress in that time loses nothing, however slow it
 * is. A reader that makes none is taken for stopped: from then on bytes are dropped at once, so the
 * machine runs on, until half of the ring is free again. Then a notice says how many were dropped.
 * Time counts as the reader's only while it leaves no room for more: on a busy machine our own
 * thread may wait for a processor for longer than a stopped reader deserves (which once cost the
 * message about a guest's death).
 *
 * Guests print byte by byte, and waking a thread costs more than all else that a byte costs. So the
 * first byte wakes it, and it lets bytes gather for OUTSTREAM_LINGER_MS before it writes them; those
 * need not wake it, unless half of the ring is full or somebody waits for the end. Messages come in
 * whole lines, and before what the guest prints afterwards: their stream does not linger.
 *
 * Locking: s->lock is a leaf; it is not held during write(). The thread reads ring bytes in
 * [tail, head) without the lock, which is safe because writers fill only what is outside.
 *
 * Not done: the bytes that were accepted before an abrupt end (SIGKILL, a panic) are lost.
 */
#include "hosted/outstream.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"

enum { CHUNK = 65536, FLUSH_STEP_MS = 10 };

int outstream_init(struct outstream *s, int fd, size_t size, const char *what,
                   void (*on_broken)(void *owner, int error), void *owner)
{
    pthread_condattr_t attr;
    void *buf = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (buf == MAP_FAILED)
        return ERR_NO_MEMORY;
    *s = (struct outstream){
        .buf = buf, .size = size, .fd = fd, .what = what, .on_broken = on_broken, .owner = owner};
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->data, &attr);
    pthread_cond_init(&s->room, &attr);
    pthread_condattr_destroy(&attr);
    return OK;
}

/* One blocking write; 0 bytes: try again. Negative: -errno, for good. */
static ssize_t write_some(int fd, const uint8_t *p, size_t n)
{
    ssize_t done = write(fd, p, n);

    if (done >= 0)
        return done;
    if (errno == EINTR)
        return 0;
    if (errno == EAGAIN) { /* somebody else set O_NONBLOCK on what we share */
        struct pollfd pfd = {.fd = fd, .events = POLLOUT};

        (void)poll(&pfd, 1, -1);
        return 0;
    }
    return -errno;
}

static struct timespec deadline_in(unsigned int ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

static size_t room_of(const struct outstream *s)
{
    return s->size - (size_t)(s->head - s->tail);
}

/* Until there is something to write. */
static void wait_for_bytes(struct outstream *s)
{
    while (s->head == s->tail || s->broken) {
        s->asleep = true;
        pthread_cond_wait(&s->data, &s->lock);
    }
    s->asleep = false;
}

static void linger(struct outstream *s)
{
    struct timespec until = deadline_in(OUTSTREAM_LINGER_MS);

    while (s->lingers && !s->hurry && !s->broken && room_of(s) > s->size / 2) {
        if (pthread_cond_timedwait(&s->data, &s->lock, &until) == ETIMEDOUT)
            break;
    }
}

void outstream_run(struct outstream *s)
{
    pthread_mutex_lock(&s->lock);
    for (;;) {
        size_t at, n;
        ssize_t done;

        wait_for_bytes(s);
        linger(s);
        at = (size_t)(s->tail & (s->size - 1));
        n = (size_t)(s->head - s->tail);
        if (n > s->size - at)
            n = s->size - at;
        if (n > CHUNK) /* pieces: room appears while a slow reader works through a full ring */
            n = CHUNK;
        pthread_mutex_unlock(&s->lock);
        done = write_some(s->fd, s->buf + at, n);
        if (done < 0 && s->on_broken)
            s->on_broken(s->owner, (int)-done);
        pthread_mutex_lock(&s->lock);
        if (done < 0)
            s->broken = true;
        else
            s->tail += (uint64_t)done;
        pthread_cond_broadcast(&s->room);
    }
}

static void copy_in(struct outstream *s, const uint8_t *p, size_t n)
{
    while (n) {
        size_t at = (size_t)(s->head & (s->size - 1));
        size_t part = n < s->size - at ? n : s->size - at;

        memcpy(s->buf + at, p, part);
        s->head += part;
        p += part;
        n -= part;
    }
    if (s->asleep || room_of(s) <= s->size / 2)
        pthread_cond_signal(&s->data);
    s->asleep = false;
}

/* Could write() go on now? A stopped reader leaves no room: a full pipe, a terminal after Ctrl-S. */
static bool is_writable(const struct outstream *s)
{
    struct pollfd pfd = {.fd = s->fd, .events = POLLOUT};

    return poll(&pfd, 1, 0) == 1;
}

/* Waits for any room. False: none came in time; the stream counts as stalled from then on. */
static bool wait_for_room(struct outstream *s)
{
    for (unsigned int i = 0; i < OUTSTREAM_WAITS && !s->stalled; i++) {
        struct timespec until = deadline_in(OUTSTREAM_WAIT_MS);

        while (room_of(s) == 0 && !s->broken && !s->stalled) {
            if (pthread_cond_timedwait(&s->room, &s->lock, &until) == ETIMEDOUT)
                break;
        }
        if (room_of(s) != 0 || s->broken)
            break;
        if (i + 1 == OUTSTREAM_WAITS || !is_writable(s))
            s->stalled = true;
    }
    return room_of(s) != 0 && !s->broken && !s->stalled;
}

/* Half of the ring is free again: the reader is back. */
static void end_stall(struct outstream *s)
{
    char notice[128];
    int n;

    if (!s->stalled || room_of(s) < s->size / 2)
        return;
    n = snprintf(notice, sizeof(notice),
                 "\r\n[lodge: %llu bytes of %s dropped, because nobody read them]\r\n",
                 (unsigned long long)s->dropped, s->what);
    s->stalled = false;
    s->dropped = 0;
    copy_in(s, (const uint8_t *)notice, (size_t)n);
}

void outstream_put(struct outstream *s, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    pthread_mutex_lock(&s->lock);
    end_stall(s);
    while (n) {
        size_t part;

        if (s->broken || s->stalled || (room_of(s) == 0 && !wait_for_room(s))) {
            s->dropped += n;
            break;
        }
        part = n < room_of(s) ? n : room_of(s);
        copy_in(s, p, part);
        p += part;
        n -= part;
    }
    pthread_mutex_unlock(&s->lock);
}

bool outstream_flush(struct outstream *s, unsigned int stalled_ms, unsigned int total_ms)
{
    unsigned int stalled = 0;
    bool empty;

    pthread_mutex_lock(&s->lock);
    end_stall(s);
    s->hurry = true;
    pthread_cond_signal(&s->data);
    for (unsigned int ms = 0; ms < total_ms && stalled < stalled_ms; ms += FLUSH_STEP_MS) {
        struct timespec until = deadline_in(FLUSH_STEP_MS);
        uint64_t tail = s->tail;

        while (s->head != s->tail && !s->broken) {
            if (pthread_cond_timedwait(&s->room, &s->lock, &until) == ETIMEDOUT)
                break;
        }
        if (s->head == s->tail || s->broken)
            break;
        if (s->tail == tail && !is_writable(s))
            stalled += FLUSH_STEP_MS;
        else
            stalled = 0;
    }
    s->hurry = false;
    empty = s->head == s->tail;
    pthread_mutex_unlock(&s->lock);
    return empty;
}
