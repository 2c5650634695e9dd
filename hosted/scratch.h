/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A directory that is gone when its user is, whatever ends it: see scratch.c. */
#ifndef LODGE_HOSTED_SCRATCH_H
#define LODGE_HOSTED_SCRATCH_H

#include <stdbool.h>
#include <sys/types.h>

#include "machine/config.h"

struct scratch {
    char path[CONFIG_PATH]; /* absolute; mode 0700 */
    int keeper;             /* the connection to the process that removes it */
    pid_t pid;
};

/* Makes it beside the file of that name, so that what is made in it can be renamed there. OK, ERR_INVALID,
 * ERR_PERMISSION or ERR_NO_MEMORY; then errno says why. One thread only. */
int must_check scratch_open(struct scratch *s, const char *beside);
/* This process group works in it, and is ended before it is removed; 0: none does any more. */
void scratch_set_group(const struct scratch *s, pid_t group);
/* Removes it, and returns when it is gone. */
void scratch_close(struct scratch *s);

#endif
