/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* A VM in the background: see detach.c. */
#ifndef LODGE_HOSTED_DETACH_H
#define LODGE_HOSTED_DETACH_H

#include "core/types.h"
#include "hosted/status.h"

/* The side of a new VM's process that is told when the VM runs. */
struct detached {
    int pid;
    int ready; /* to read from */
};

/* Makes a process in a session of its own. There: true is returned, and *tell is for detach_done. Here: false, with
 * *d; or d->pid is -1, and errno. */
bool detach_fork(struct detached *d, int *tell);
/* Waits until it runs: STATUS_OK; or has ended, having said why: its status. */
enum lodge_status detach_wait(const struct detached *d);

/* In the new process: leaves standard input, output, and error unless that is a file. Before the sandbox. False, and
 * errno: it cannot. */
bool must_check detach_leave(void);
/* The VM runs. In the sandbox. */
void detach_done(int tell);

#endif
