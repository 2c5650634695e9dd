/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Threads of the VM process: see thread.c. */
#ifndef LODGE_HOSTED_THREAD_H
#define LODGE_HOSTED_THREAD_H

#include "core/types.h"

/* A detached thread with a small stack, a signal stack and the caller's signal mask, named for
 * `ps -L` and `top -H`. Returns once it is about to call body: whatever the C library does at the
 * start of a thread is over then, so that the sandbox may come down. ERR_NO_MEMORY. */
int must_check thread_start(const char *name, void (*body)(void *arg), void *arg);

#endif
