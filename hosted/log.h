/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Lodge's own messages to the operator, on standard error: see log.c. */
#ifndef LODGE_HOSTED_LOG_H
#define LODGE_HOSTED_LOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/seam.h"
#include "core/types.h"
#include "hosted/outstream.h"

enum { LOG_BURST = 20, LOG_PER_SECOND = 5 };

/* A token bucket: what one VM may write into the operator's log. */
struct log_limit {
    pthread_mutex_t lock;
    uint64_t refilled_ns; /* seam time of the last refill; 0: never */
    uint32_t tokens;
    uint64_t suppressed;
};

void log_limit_init(struct log_limit *l);
/* May one more line be written now? *suppressed: lines refused since the last that was allowed. */
bool log_limit_take(struct log_limit *l, uint64_t now_ns, uint64_t *suppressed);

/* Text of one or several lines, ended by '\n', to standard error: through `s` once it is given,
 * else directly. On a raw terminal '\n' becomes "\r\n". */
void log_use_stream(struct outstream *s);
void log_write(const char *text, size_t n);
/* "lodge: ...\n" */
void say(const char *format, ...) printf_like(1, 2);
/* The text as it is. */
void say_raw(const char *format, ...) printf_like(1, 2);

#endif
