/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The VM's end of its control socket: see control.c. Everything here is the main thread's. */
#ifndef LODGE_HOSTED_CONTROL_H
#define LODGE_HOSTED_CONTROL_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/types.h"
#include "hosted/ram.h"

struct home;

enum { CONTROL_CLIENTS = 8, CONTROL_POLLS = 1 + CONTROL_CLIENTS };

enum control_role {
    CONTROL_FREE,    /* no client */
    CONTROL_ASKING,  /* requests and answers */
    CONTROL_WAITING, /* for a freeze, which is for this one */
    CONTROL_READING, /* has descriptors of memory, until it goes */
    CONTROL_CONSOLE, /* attached to the serial port */
};

struct control_client {
    enum control_role role;
    int fd;
    uint64_t seen; /* CONTROL_CONSOLE: place in the ring; CONTROL_READING: ram.layers_made when it got layers */
    bool for_fork; /* CONTROL_WAITING */
};

struct control {
    int listener; /* -1: no socket */
    uint32_t clients;
    struct control_client client[CONTROL_CLIENTS];
};

/* Opens the VM's socket, if it was given a name. Before the sandbox. An error and message[OPTIONS_MESSAGE]. */
int must_check control_open(struct home *h, char *message);
/* What to wait for: fills p[CONTROL_POLLS], of which so many are to be polled (poll refuses more than the process may
 * have descriptors). control_handle gets the same. */
uint32_t control_want(struct home *h, struct pollfd *p);
void control_handle(struct home *h, const struct pollfd *p, uint32_t count);
/* At the VM's end: its consoles get what the guest printed last. Waits for those who are slow, all_ms at most, and stalled_ms
 * for those who take nothing. */
void control_flush(struct home *h, uint32_t stalled_ms, uint32_t all_ms);
/* The machine was reset: nothing is frozen any more. */
void control_reset(struct home *h);
/* Work in small pieces. In how many ms to call again, -1: no need. */
int control_tend(struct home *h);

#endif
