/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A VM that has run before, in place of one that boots: see restore.c. */
#ifndef LODGE_HOSTED_RESTORE_H
#define LODGE_HOSTED_RESTORE_H

#include "hosted/frozen.h"
#include "hosted/saved_file.h"

struct home;

/* Where it comes from: a file, or a running VM. */
struct restore_origin {
    const struct saved *saved;
    const struct saved_file *file; /* NULL: it is */
    struct frozen *frozen; /* whose memory becomes the VM's */
};

/* All of these: an error, and message[OPTIONS_MESSAGE]. In this order, with nothing running. */

/* Makes h->options.config what the VM is, but for what the operator has given. */
int must_check restore_definition(struct home *h, char *message);
/* Takes an engine that can go on with its level. */
int must_check restore_engine(struct home *h, char *message);
int must_check restore_memory(struct home *h, char *message);
/* Into the machine that has been made: all of its state, and the time. */
int must_check restore_machine(struct home *h, char *message);

/* The body of a thread that holds the file against its checksums while the guest runs. */
void restore_verify(void *home);

#endif
