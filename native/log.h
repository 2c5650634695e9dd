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
/* To every sink's write_now, as it is, without a lock: for a panic. From the first one on log_line does the same, since
 * who holds the lock may have been stopped. */
void log_now(const char *bytes, size_t size);
/* Copies the newest lines, whole ones, into buf; how many bytes. */
size_t log_newest(char *buf, size_t size);

#endif
