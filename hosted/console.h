/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The guest's serial port on the operator's terminal or pipes: see console.c. */
#ifndef LODGE_HOSTED_CONSOLE_H
#define LODGE_HOSTED_CONSOLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hosted/console_ring.h"
#include "hosted/keys.h"
#include "hosted/last_line.h"

struct home;
struct console_ops;

enum { CONSOLE_PENDING = 4096 };

struct console {
    bool is_terminal; /* standard input: keys are looked at, and it is read even when the guest is
                         slow, since the menu must work then too */
    bool is_open;     /* standard input has not ended */
    struct keys keys;
    uint32_t pending_count;
    uint32_t retry_ms;                /* the guest took nothing: when to try again */
    uint8_t pending[CONSOLE_PENDING]; /* typed, not yet taken by the guest */
    struct last_line last;            /* board lock */
    struct console_ring ring;         /* for those who attach: control.c */
};

void console_init(struct home *h);
/* For pc_create; owner is struct home. */
extern const struct console_ops console_home_ops;

/* Main thread. Should standard input be polled now? */
bool console_wants_input(const struct home *h);
/* Standard input is readable, or has ended. */
void console_read(struct home *h);
/* Before each wait: takes the terminal if it can be had, offers what is pending to the guest.
 * Returns after how many ms to call again, -1: no need. */
int console_tend(struct home *h);
/* Bytes for the guest from somewhere else, which there must be room for. */
bool console_has_room(const struct home *h, size_t n);
void console_add_input(struct home *h, const uint8_t *bytes, size_t n);
/* The machine was reset: what was typed for the old one is gone. */
void console_reset(struct home *h);

#endif
