/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The hypervisor's log: each line goes into a ring, where the operator's `log` finds the newest, and to every sink
 * (serial port, screen), which queue it or draw it, but do not wait.
 *
 * Lines may quote what a guest, a boot module or firmware said, and sinks are terminals: control characters, escape
 * sequences above all, are not let through.
 *
 * Locking: one spin lock around ring and sinks, so that lines are not mixed; the sinks' own locks are below it. A
 * line is formatted before. In a panic, and when other CPUs have been stopped, there is no lock. State: ring, sinks, as there is one log.
 */
#include "native/log.h"

#include <stdarg.h>

#include "core/fmt.h"
#include "core/mem.h"
#include "native/ring.h"
#include "native/spin.h"

enum { LOG_SIZE = 64 << 10, LINE_SIZE = 512, SINKS = 4, NS_PER_US = 1000, US_PER_S = 1000000 };

static uint8_t memory[LOG_SIZE];
static struct {
    struct spin lock;
    struct ring ring;
    const struct log_sink *sink[SINKS];
    uint32_t sinks;
    uint64_t (*now_ns)(void);
    _Atomic bool alone;
} log_state = {.ring = {memory, LOG_SIZE, 0}};

static void lock(void)
{
    if (!atomic_load_explicit(&log_state.alone, memory_order_relaxed))
        spin_lock(&log_state.lock);
}

static void unlock(void)
{
    if (!atomic_load_explicit(&log_state.alone, memory_order_relaxed))
        spin_unlock(&log_state.lock);
}

static void send(const struct log_sink *s, const char *line, size_t size)
{
    if (atomic_load_explicit(&log_state.alone, memory_order_relaxed))
        s->write_now(line, size);
    else
        s->write(line, size);
}

static size_t put_time(char *line)
{
    if (!log_state.now_ns)
        return 0;
    uint64_t us = log_state.now_ns() / NS_PER_US;
    return fmt(line, LINE_SIZE, "[%5llu.%06llu] ", (unsigned long long)(us / US_PER_S),
               (unsigned long long)(us % US_PER_S));
}

/* How long it is with its end; what did not fit is replaced by dots. */
static size_t finish(char *line, size_t length)
{
    if (length > LINE_SIZE - 2) {
        length = LINE_SIZE - 2;
        memcpy(line + length - 3, "...", 3);
    }
    for (size_t i = 0; i < length; i++)
        if (line[i] < ' ' || line[i] > '~')
            line[i] = '?';
    line[length] = '\n';
    return length + 1;
}

void log_line(const char *format, ...)
{
    char line[LINE_SIZE];
    size_t length = put_time(line);
    va_list ap;

    va_start(ap, format);
    length += fmt_v(line + length, sizeof(line) - length, format, ap);
    va_end(ap);
    length = finish(line, length);
    lock();
    ring_write(&log_state.ring, line, length);
    for (uint32_t i = 0; i < log_state.sinks; i++)
        send(log_state.sink[i], line, length);
    unlock();
}

/* What was said before goes to it first. */
static void replay(const struct log_sink *s)
{
    uint64_t position = ring_begin(&log_state.ring), missed;
    char buf[256];
    size_t n;

    while ((n = ring_read(&log_state.ring, &position, buf, sizeof(buf), &missed)) > 0)
        send(s, buf, n);
}

void log_add_sink(const struct log_sink *s)
{
    lock();
    if (log_state.sinks < SINKS) {
        log_state.sink[log_state.sinks++] = s;
        replay(s);
    }
    unlock();
}

void log_set_clock(uint64_t (*now_ns)(void))
{
    log_state.now_ns = now_ns;
}

void log_alone(void)
{
    atomic_store_explicit(&log_state.alone, true, memory_order_relaxed);
}

void log_now(const char *bytes, size_t size)
{
    log_alone();
    ring_write(&log_state.ring, bytes, size);
    for (uint32_t i = 0; i < log_state.sinks; i++)
        log_state.sink[i]->write_now(bytes, size);
}

/* The ring holds lines in full but for its oldest: what lies before the first end of a line is left out, unless a
 * line begins just there. */
size_t log_newest(char *buf, size_t size)
{
    uint64_t position, begin, missed;
    size_t n, skip = 0;

    lock();
    begin = ring_begin(&log_state.ring);
    position = log_state.ring.end - begin > size ? log_state.ring.end - size : begin;
    bool whole = position == 0;
    if (position > begin) {
        char before;
        uint64_t at = position - 1;
        (void)ring_read(&log_state.ring, &at, &before, 1, &missed);
        whole = before == '\n';
    }
    n = ring_read(&log_state.ring, &position, buf, size, &missed);
    unlock();
    while (!whole && skip < n && buf[skip++] != '\n')
        continue;
    memmove(buf, buf + skip, n - skip);
    return n - skip;
}
