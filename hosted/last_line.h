/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The last line that a guest printed, made fit for a message: see last_line.c. */
#ifndef LODGE_HOSTED_LAST_LINE_H
#define LODGE_HOSTED_LAST_LINE_H

#include <stddef.h>
#include <stdint.h>

enum { LAST_LINE_SIZE = 160 };

struct last_line {
    uint8_t escape; /* enum escape_state of last_line.c */
    uint8_t length;
    char text[LAST_LINE_SIZE];     /* the line being printed; not terminated */
    char complete[LAST_LINE_SIZE]; /* the newest whole line that was not blank */
};

/* All zero is the state at the start. */
void last_line_feed(struct last_line *l, const uint8_t *bytes, size_t n);
/* The newest line that is not blank, whole or not, cut to LAST_LINE_SIZE - 1; "" if there is none.
 */
const char *last_line_get(struct last_line *l);

#endif
