/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the hypervisor says: a ring that `log` shows, and every console. (log.c) */
#ifndef LODGE_NATIVE_LOG_H
#define LODGE_NATIVE_LOG_H

#include "core/types.h"

/* One formatted line, without its end; what is not printable in it becomes a question mark, what is too long is
 * cut. Any CPU, any lock held but the log's and the sinks'; never blocks. */
void log_line(const char *format, ...) printf_like(1, 2);

/* Where lines go besides the ring. */
struct log_sink {
    void (*write)(const char *bytes, size_t size);     /* does not block */
    void (*write_now)(const char *bytes, size_t size); /* polls, bounded: in a panic */
};
void log_add_sink(const struct log_sink *s);
/* From now on lines begin with the time that this says ("[   12.345678] "). */
void log_set_clock(uint64_t (*now_ns)(void));
/* From now on lines go to every sink's write_now, without locks: this CPU is the only one that speaks, and who holds a
 * lock may have been stopped. */
void log_alone(void);
/* log_alone, and to every sink, as it is: for a panic. */
void log_now(const char *bytes, size_t size);
/* Copies the newest lines, whole ones, into buf; how many bytes. */
size_t log_newest(char *buf, size_t size);

#endif
