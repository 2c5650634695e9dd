/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Threads of the VM process: see thread.c. */
#ifndef LODGE_HOSTED_THREAD_H
#define LODGE_HOSTED_THREAD_H

#include <stdatomic.h>

#include "core/types.h"

/* Until thread_await is over it belongs to the thread that is starting. */
struct thread {
    void (*body)(void *arg);
    void *arg;
    char name[16];
    _Atomic uint32_t begun;
};

/* A detached thread with a small stack, a signal stack and the caller's signal mask, named for
 * `ps -L` and `top -H`. ERR_NO_MEMORY. Several begin at once, if they are started before any is waited for. */
int must_check thread_start(struct thread *t, const char *name, void (*body)(void *arg), void *arg);
/* Until it is about to call body: whatever the C library does at the start of a thread is over then, so that the
 * sandbox may come down. */
void thread_await(struct thread *t);

#endif
